"""Which rows of a step a process reads, and in which micro-batches.

The rows of an update are a run of numbers that follows from the settings and the update alone (`schedule.rows_at`,
`schedule.first_row`); the ranks cut it into parts, so that how many they are changes nothing but the order of sums.
"""

from __future__ import annotations

from luopan.errors import TrainingError
from luopan.train.config import TrainConfig
from luopan.train.schedule import first_row, rows_at


def step_rows(config: TrainConfig, step: int) -> range:
    """Numbers of the rows that all ranks together read in update `step`."""
    start = first_row(config, step)
    return range(start, start + rows_at(config, step))


def micro_batch_rows(config: TrainConfig, step: int, rank: int, world_size: int) -> list[range]:
    """Row numbers of this rank's micro-batches in update `step`: at most `per_device_train_batch_size` each.

    Parts of two ranks differ by at most one row. TrainingError where the step has fewer rows than there are ranks.
    """
    rows = step_rows(config, step)
    if len(rows) < world_size:
        raise TrainingError(
            f"step {step} has {len(rows)} rows for {world_size} processes: some would have nothing to do",
            hint="per_device_train_batch_size x gradient_accumulation_steps are the rows of all processes together. "
            "Raise one of them (and batch_warmup_start, where the batch grows), or start fewer processes.",
        )
    mine = rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
    size = config.per_device_train_batch_size
    return [mine[place : place + size] for place in range(0, len(mine), size)]
