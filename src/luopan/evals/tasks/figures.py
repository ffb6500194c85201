"""Scores with their standard errors, differences between models on the same rows, and pass@k.

A figure is a ratio of sums over rows: of x (what a row scores) and w (what it weighs: 1, or its bytes, or its
instructions). Its standard error is the linearised one for rows drawn at random; with w = 1 that is the sample's
standard deviation over the root of n. A difference between two models is taken row by row, so what makes a row hard
for both does not blur it (Miller 2024, arXiv:2411.00640).
Limits: over rows, not over training seeds; a mean of very few rows has no normal spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`scores` and `weights` by row; a score of None could not be told, and is left out."""

    scores: tuple[float | None, ...] = field(repr=False)
    weights: tuple[float, ...] = field(default=(), repr=False)  # (): all 1
    chance: float | None = None
    higher_is_better: bool = True

    @property
    def n(self) -> int:
        return len(self._pairs())

    @property
    def value(self) -> float | None:
        """None without rows."""
        pairs = self._pairs()
        weight = math.fsum(w for _, w in pairs)
        return math.fsum(x for x, _ in pairs) / weight if weight else None

    @property
    def stderr(self) -> float | None:
        """None below two rows."""
        return spread(self.pulls())

    def pulls(self) -> list[float | None]:
        """By how much each row stands above the value, in units of the figure; None where it was left out."""
        value = self.value
        if value is None:
            return [None] * len(self.scores)
        mean = math.fsum(w for _, w in self._pairs()) / self.n
        return [
            None if score is None else (score - value * self._weight(at)) / mean for at, score in enumerate(self.scores)
        ]

    def _weight(self, row: int) -> float:
        return self.weights[row] if self.weights else 1.0

    def _pairs(self) -> list[tuple[float, float]]:
        return [(score, self._weight(at)) for at, score in enumerate(self.scores) if score is not None]

    def to_json(self) -> dict[str, Any]:
        """The figures, without the rows."""
        return {"value": self.value, "stderr": self.stderr, "n": self.n, "chance": self.chance,
                "higher_is_better": self.higher_is_better}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The second model's figure minus the first's over the `n` rows that both have."""

    value: float
    stderr: float | None
    n: int

    @property
    def clear(self) -> bool:
        """Whether it is further from 0 than two standard errors. One of twenty such is chance."""
        return self.stderr is not None and abs(self.value) > 2 * self.stderr

    def to_json(self) -> dict[str, Any]:
        return {"difference": self.value, "stderr": self.stderr, "n": self.n, "clear": self.clear}


def paired(first: Figure, second: Figure) -> Difference | None:
    """None where no row has both. Both must be over the same rows, in the same order."""
    assert len(first.scores) == len(second.scores), "paired over different rows"
    both = [a is not None and b is not None for a, b in zip(first.scores, second.scores)]
    one, other = _only(first, both), _only(second, both)
    if one.value is None or other.value is None:
        return None
    pulls = zip(one.pulls(), other.pulls())
    apart = [b - a for a, b in pulls if a is not None and b is not None]
    return Difference(other.value - one.value, spread(apart), one.n)


def _only(figure: Figure, rows: Sequence[bool]) -> Figure:
    kept = tuple(score if row else None for score, row in zip(figure.scores, rows))
    return Figure(kept, figure.weights, figure.chance, figure.higher_is_better)


def spread(values: Sequence[float | None]) -> float | None:
    """Standard error of the mean of values, by Bessel; None below two."""
    known = [value for value in values if value is not None]
    n = len(known)
    if n < 2:
        return None
    mean = math.fsum(known) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1) / n)


def pass_at(k: int, n: int, correct: int) -> float:
    """Chance that one of k answers is right, from `correct` right ones among n, without bias (Chen et al. 2021,
    arXiv:2107.03374): 1 - C(n - correct, k) / C(n, k)."""
    assert 1 <= k <= n and 0 <= correct <= n
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


@dataclass(frozen=True)
class Result:
    """Of one task and one model. `rows`: what a reader wants to see of each row; `notes`: counts by what they count."""

    task: str
    main: str
    figures: dict[str, Figure]
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    notes: dict[str, float] = field(default_factory=dict)
    identity: str = ""  # of the rows: only results of the same rows can be paired

    def to_json(self) -> dict[str, Any]:
        """Without the rows."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {"task": self.task, "main": self.main, "figures": figures, "notes": self.notes, "rows": self.identity}
