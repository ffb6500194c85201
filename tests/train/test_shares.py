"""Which rows a process reads: the same in all, however a step is cut."""

from __future__ import annotations

import pytest

from luopan.errors import TrainingError
from luopan.train.config import TrainConfig
from luopan.train.shares import micro_batch_rows


def config(per_device: int, accumulation: int, **more: int) -> TrainConfig:
    return TrainConfig(
        learning_rate=1e-3,
        max_steps=10,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        **more,
    )


@pytest.mark.parametrize(
    ("per_device", "accumulation", "world"), [(32, 1, 1), (4, 8, 1), (4, 8, 2), (2, 16, 4), (8, 4, 3), (32, 1, 5)]
)
def test_a_step_reads_the_same_rows_however_it_is_cut(per_device: int, accumulation: int, world: int) -> None:
    for step in (0, 1, 7):
        parts = [micro_batch_rows(config(per_device, accumulation), step, rank, world) for rank in range(world)]
        assert [n for part in parts for rows in part for n in rows] == list(range(step * 32, step * 32 + 32))
        assert all(0 < len(rows) <= per_device for part in parts for rows in part)
        sizes = [sum(map(len, part)) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_growing_batch_leaves_no_row_out() -> None:
    growing = config(2, 4, batch_warmup_steps=4)
    read = [n for step in range(8) for rows in micro_batch_rows(growing, step, 0, 1) for n in rows]
    assert read == list(range(len(read))) and len(read) < 8 * 8


def test_more_processes_than_rows_is_an_error() -> None:
    with pytest.raises(TrainingError, match="2 rows for 3 processes"):
        micro_batch_rows(config(2, 1), 0, 0, 3)
