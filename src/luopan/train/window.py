"""The figures of the steps since the last log line, as sums and counts; read from the device when a line is due."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luopan.objectives.base import Metric
from luopan.train.ranks import gather_objects, rank

Sums = dict[str, tuple[float, float]]
SOURCE_PREFIX, SOURCE_SUFFIX = "source/", "/loss"


def source_loss(name: str) -> str:
    """What the loss on one source is called in the metrics."""
    return f"{SOURCE_PREFIX}{name}{SOURCE_SUFFIX}"


class Window:
    """Collects (sum, count) pairs step by step. Steps that were skipped count for nothing."""

    def __init__(self) -> None:
        self.sums: Sums = {}
        self.waiting: list[tuple[Tensor, dict[str, Metric]]] = []

    def add(self, bad: Tensor, metrics: dict[str, Metric]) -> None:
        """A step's metrics and whether it was skipped (a scalar, 0 or 1); nothing is read from the device yet."""
        self.waiting.append((bad, metrics))

    def read(self) -> Sums:
        """Bring what is waiting to the host in one go, and return the sums so far (of this rank)."""
        scalars = [x for bad, metrics in self.waiting for x in (bad, *(t for pair in metrics.values() for t in pair))]
        if not scalars:
            return self.sums
        values = iter(torch.stack([scalar.detach().float() for scalar in scalars]).tolist())
        for _, metrics in self.waiting:
            skipped = next(values) > 0
            for name in metrics:
                pair = (next(values), next(values))
                if not skipped:
                    self.sums[name] = merged_pair(name, self.sums.get(name), pair)
        self.waiting = []
        return self.sums

    def over_ranks(self) -> Sums:
        """The sums of all ranks together. Every rank must call it."""
        total: Sums = {}
        for part in gather_objects(self.read()):
            for name, pair in part.items():
                total[name] = merged_pair(name, total.get(name), pair)
        return total

    def clear(self) -> None:
        """A line was written: start anew."""
        self.sums, self.waiting = {}, []

    def restore(self, sums: dict[str, list[float]]) -> None:
        """Go on from what a checkpoint saved over all ranks: rank 0 takes it all."""
        self.clear()
        if rank() == 0:
            self.sums = {name: (pair[0], pair[1]) for name, pair in sums.items()}


def merged_pair(name: str, old: tuple[float, float] | None, new: tuple[float, float]) -> tuple[float, float]:
    """Sums and counts add up; a name that ends in "_max" keeps the larger value (see `merge_metrics`)."""
    if old is None:
        return new
    if name.endswith("_max"):
        return max(old[0], new[0]), new[1]
    return old[0] + new[0], old[1] + new[1]


def means(sums: Sums) -> dict[str, float]:
    """Each sum over its count; not a number where nothing was counted. A source that was not read has no figure."""
    return {
        name: total / count if count else math.nan
        for name, (total, count) in sums.items()
        if count or not name.startswith(SOURCE_PREFIX)
    }
