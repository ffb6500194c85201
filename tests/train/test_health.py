"""Weights that would never learn, and ranks that start apart, are errors that name them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from luopan.errors import TrainingError
from luopan.train import health
from luopan.train.health import check_same_weights, gradients_reach_all


def parameters(**gradients) -> dict[str, nn.Parameter]:
    found = {}
    for name, gradient in gradients.items():
        found[name] = nn.Parameter(torch.ones(2, 2))
        found[name].grad = None if gradient is None else torch.full((2, 2), float(gradient))
    return found


def test_all_reached() -> None:
    assert gradients_reach_all(parameters(a=1.0, b=float("nan")), 0), "not finite is the spike guard's business"


def test_nothing_learned_at_all_is_looked_at_again() -> None:
    assert not gradients_reach_all(parameters(a=0.0, b=0.0), 0)


@pytest.mark.parametrize("gradients", [{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": None}, {"a": 0.0, "b": None}])
def test_one_that_is_left_out_is_named(gradients: dict) -> None:
    with pytest.raises(TrainingError, match="no gradient reaches b in step 3"):
        gradients_reach_all(parameters(**gradients), 3)


def test_another_ranks_shard_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "world_size", lambda: 2)
    monkeypatch.setattr(health, "gather_objects", lambda mine: [mine, [False, True, False]])
    with pytest.raises(TrainingError, match="reaches c in"):
        gradients_reach_all(parameters(a=1.0, b=0.0, c=0.0), 0)


def test_ranks_that_start_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "world_size", lambda: 2)
    monkeypatch.setattr(health, "gather_objects", lambda mine: [mine, mine])
    check_same_weights(parameters(a=1.0))
    monkeypatch.setattr(health, "gather_objects", lambda mine: [mine, [value + 1 for value in mine]])
    with pytest.raises(TrainingError, match="different weights"):
        check_same_weights(parameters(a=1.0))
