"""Synthetic data: pipelines that ask language models and keep what stands up to checks."""
