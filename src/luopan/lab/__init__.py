"""Experiments and measurements around recipes and models: what a machine can do, what a model can do."""
