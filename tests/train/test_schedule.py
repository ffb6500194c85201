"""Learning rates against values worked by hand and against the schedules of `transformers`."""

from __future__ import annotations

import pytest
import torch

from luopan.train.config import TrainConfig
from luopan.train.schedule import learning_rate_at


def rates(**keys) -> list[float]:
    config = TrainConfig(**{"learning_rate": 1.0, **keys})
    return [learning_rate_at(config, step) for step in range(config.max_steps)]


def test_wsd_by_hand() -> None:
    found = rates(max_steps=10, lr_scheduler_type="wsd", warmup_steps=3, decay_ratio=0.3)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    floored = rates(max_steps=4, lr_scheduler_type="wsd", decay_ratio=0.75, min_lr_ratio=0.2)
    assert floored == pytest.approx([1, 0.8, 0.6, 0.4])


def test_constant() -> None:
    assert rates(max_steps=4, lr_scheduler_type="constant", warmup_steps=1) == [0.5, 1, 1, 1]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_decay_is_that_of_transformers(kind: str) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=5, num_training_steps=50)
    expected = []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = rates(max_steps=50, lr_scheduler_type=kind, warmup_steps=5)
    assert ours[5:] == pytest.approx(expected[5:])
    assert all(rate > 0 for rate in ours)  # theirs wastes its first update on a rate of 0
