"""The compass: whether to train at all, what, and how, asked before anything is bought. No torch is imported."""
