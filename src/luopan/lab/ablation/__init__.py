"""Ablations: one change at a time against a baseline, with seeds, a noise band, a verdict and a ledger."""
