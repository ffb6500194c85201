"""The learning rate as a pure function of the step: there is no scheduler state to save or to lose."""

from __future__ import annotations

import math

from luopan.train.config import TrainConfig


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Learning rate of update `step` (0 is the first).

    Linear warm-up reaches the peak at update `num_warmup_steps`, and update 0 is never wasted on a rate of zero.
    wsd (Hu et al. 2024, MiniCPM, arXiv:2404.06395; decay linear as in SmolLM3) and linear fall on a line, cosine on
    half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), all to `min_lr_ratio` times the peak: the last update
    takes one step of the decay less than the whole way, as the first takes one step of the warm-up.
    """
    peak, floor = config.learning_rate, config.final_lr_ratio
    warmup, decay = config.num_warmup_steps, config.num_decay_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    left = config.max_steps - step  # updates left, this one included
    if decay == 0 or left > decay:
        return peak
    share = max(left, 0) / (decay + 1) if config.lr_scheduler_type == "wsd" else max(left, 0) / decay
    if config.lr_scheduler_type == "cosine":
        share = 0.5 * (1 - math.cos(math.pi * share))
    return peak * (floor + (1 - floor) * share)
