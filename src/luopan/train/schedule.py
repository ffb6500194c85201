"""Learning rate and batch size as pure functions of the step: there is no scheduler state to save or to lose.

`learning_rate_at` says how far update `step` goes; `rows_at` and `first_row` say which rows it reads, in the order that
the feed defines: rows `first_row(step)` up to `first_row(step) + rows_at(step)`, over all processes together. Steps
count from 0. The batch depends on nothing but the step, so it is the same in any number of processes.
"""

from __future__ import annotations

import math

from luopan.train.config import TrainConfig

# ---- the learning rate ----


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Learning rate of update `step` (0 is the first).

    Linear warm-up reaches the peak at update `num_warmup_steps`, and update 0 is never wasted on a rate of zero. After
    it: wsd (Hu et al. 2024, MiniCPM, arXiv:2404.06395) stays and decays over the last steps, cosine (Loshchilov &
    Hutter 2017, arXiv:1608.03983) and linear decay all the way, multistep drops at milestones (DeepSeek LLM,
    arXiv:2401.02954), constant stays. What decays ends at `min_lr_ratio` times the peak; the last update takes one step
    of the decay less than the whole way, as the first takes one step of the warm-up. Annealing rounds repeat all of
    that over equal parts of the steps (SGDR, arXiv:1608.03983), each with its own peak.
    """
    start, end, peak = round_of(config, step)
    warmup = config.num_warmup_steps
    if step - start < warmup:
        return peak * (step - start + 1) / (warmup + 1)
    if config.lr_scheduler_type == "multistep":
        return peak * config.milestone_factor ** sum(step >= milestone for milestone in config.milestones)
    stays_to_the_end = config.lr_scheduler_type in ("wsd", "constant")
    decay = config.num_decay_steps if stays_to_the_end else end - start - warmup
    left = end - step  # updates left in the round, this one included
    if decay == 0 or left > decay:
        return peak
    floor = config.final_lr_ratio
    return peak * (floor + (1 - floor) * decay_share(config, max(left, 0), decay))


def round_of(config: TrainConfig, step: int) -> tuple[int, int, float]:
    """The annealing round that update `step` is in: its first update, the one after its last, and its peak rate."""
    rounds = config.annealing_rounds
    if rounds is None:
        return 0, config.max_steps, config.learning_rate
    # Round r has the updates from r * max_steps // rounds on, so lengths differ by one at most.
    index = min(((step + 1) * rounds - 1) // config.max_steps, rounds - 1)
    start, end = index * config.max_steps // rounds, (index + 1) * config.max_steps // rounds
    return start, end, config.learning_rate * (config.annealing_gamma or 1.0) ** index


def decay_share(config: TrainConfig, left: int, decay: int) -> float:
    """Where the decay stands, from 1 (at its start) to 0, with `left` of `decay` updates to go, this one included."""
    if config.lr_scheduler_type != "wsd":
        share = left / decay
        return 0.5 * (1 - math.cos(math.pi * share)) if config.lr_scheduler_type == "cosine" else share
    share = left / (decay + 1)  # the update before the decay stood at 1
    if config.decay_type == "1-sqrt":  # Haegele et al. 2024, arXiv:2405.18392
        return 1 - math.sqrt(1 - share)
    if config.decay_type == "cosine":
        return 0.5 * (1 - math.cos(math.pi * share))
    return share


# ---- the batch ----


def rows_at(config: TrainConfig, step: int) -> int:
    """Rows of update `step`, over all processes together; always whole micro-batches.

    With `batch_warmup_steps` W they grow on a line from `batch_warmup_start` at update 0 to `rows_per_step` at update
    W, rounded down to micro-batches; without, they are `rows_per_step`.
    """
    return micro_batches_at(config, step) * config.per_device_train_batch_size


def micro_batches_at(config: TrainConfig, step: int) -> int:
    """Micro-batches of update `step`, over all processes together."""
    full, warmup = config.gradient_accumulation_steps, config.batch_warmup_steps
    if warmup is None or step >= warmup:
        return full
    start = config.first_rows // config.per_device_train_batch_size
    return start + (full - start) * step // warmup


def first_row(config: TrainConfig, step: int) -> int:
    """Rows that all updates before `step` read: the number of its first row. No loop over steps."""
    size, full = config.per_device_train_batch_size, config.gradient_accumulation_steps
    warmup = config.batch_warmup_steps
    if warmup is None:
        return step * full * size
    start = config.first_rows // size
    growing = min(step, warmup)
    micro = start * growing + floor_sum(growing, full - start, warmup) + (step - growing) * full
    return micro * size


def steps_for_rows(config: TrainConfig, rows: int) -> int:
    """The fewest updates that read `rows` rows or more (the last one may read past them)."""
    low, high = 0, rows  # an update reads one row at least
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if first_row(config, middle) >= rows else (middle + 1, high)
    return low


def floor_sum(count: int, slope: int, divisor: int) -> int:
    """Sum of `i * slope // divisor` for i in range(count), in O(log) steps.

    Euclid's algorithm on lattice points below a line (as in AtCoder's library, `floor_sum`).
    """
    total, sign, offset = 0, 1, 0
    while count > 0:
        total += sign * (count * (count - 1) // 2 * (slope // divisor) + count * (offset // divisor))
        slope, offset = slope % divisor, offset % divisor
        top = slope * count + offset
        if top < divisor:
            break
        # The points below the line, counted by columns, are those counted by rows with the axes exchanged.
        count, offset = divmod(top, divisor)
        slope, divisor = divisor, slope
    return total


def same_course(one: TrainConfig, other: TrainConfig, steps: int) -> bool:
    """Whether the first `steps` updates have the same learning rate and the same rows under both configurations.

    This is what a decay run needs that goes on from a checkpoint of a longer stable phase: with `max_steps` = step of
    the checkpoint + `decay_steps`, everything before the checkpoint is as it was.
    """
    return all(
        learning_rate_at(one, step) == learning_rate_at(other, step) and rows_at(one, step) == rows_at(other, step)
        for step in range(steps)
    )
