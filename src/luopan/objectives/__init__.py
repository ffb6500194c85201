"""Losses and advantages as pure functions of tensors, each with its formula and its paper.

Every loss returns a `LossTerm`: a sum and the count it is over. Only the training loop divides, by the count over all
micro-batches and ranks of the step, so accumulation and data parallelism cannot change a loss. Nothing here knows
models, batches or tokenizers. Importing this package imports no torch: take what you need from its modules.
"""
