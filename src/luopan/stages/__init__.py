"""Stages: short files that lead artifacts through the rooms below and hand an artifact back."""
