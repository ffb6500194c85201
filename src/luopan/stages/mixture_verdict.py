"""Which of several mixtures is best, said only where the difference is above the noise between seeds.

Every candidate is trained with the same seeds: for one seed the initial weights and the order within each source are
the same, so candidates are compared pair by pair within a seed (a paired t-test). A pair counts as different where its
two-sided p-value, multiplied by the number of pairs (Bonferroni), is below 1 - confidence; so the best may be picked
after looking.

Limits: the noise is that of initialisation and order, not of which texts were held out; differences are taken as
normal; and what is best for a small proxy need not be best for a large model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """`worse` minus `better`, over the seeds; `p` is adjusted for the number of pairs."""

    better: str
    worse: str
    difference: float
    stderr: float
    p: float


@dataclass(frozen=True)
class Verdict:
    """`best` has the lowest mean; `tied` are the others that are not worse above the noise."""

    best: str
    tied: tuple[str, ...]
    comparisons: tuple[Comparison, ...]  # every pair
    visible: float  # the smallest difference from the best that would have counted, in the noisiest pair (of the tied)
    confidence: float
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether one candidate is better than all others, above the noise."""
        return not self.tied

    def text(self, unit: str = "bits/byte") -> str:
        """The verdict in words."""
        against = {one.worse: one for one in self.comparisons if one.better == self.best}
        if self.clear:
            nearest = min(against.values(), key=lambda one: one.difference)
            return (
                f"{self.best} is best: {nearest.difference:.4f} {unit} (± {nearest.stderr:.4f}) below {nearest.worse}, "
                f"the next one, over {self.seeds} seeds (p {said(nearest.p)})."
            )
        behind = [name for name in against if name not in self.tied]
        names = " and ".join([", ".join([self.best, *self.tied[:-1]]), self.tied[-1]])
        rest = f" {', '.join(behind)} {'are' if len(behind) > 1 else 'is'} worse." if behind else ""
        return (
            f"No difference above noise between {names}: {self.best} has the lowest mean, but over {self.seeds} seeds "
            f"differences below {self.visible:.4f} {unit} cannot be told from chance.{rest}"
        )

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "clear": self.clear, "text": self.text()}


def judge(scores: Mapping[str, Sequence[float]], confidence: float) -> Verdict:
    """The verdict over candidates' scores, lower is better, the same seeds in the same places."""
    means = {name: fmean(values) for name, values in scores.items()}
    order = sorted(scores, key=lambda name: means[name])
    pairs = list(combinations(order, 2))
    seeds = len(scores[order[0]])
    found = []
    for better, worse in pairs:
        gaps = [b - a for a, b in zip(scores[better], scores[worse], strict=True)]
        gap, stderr = fmean(gaps), stdev(gaps) / math.sqrt(seeds)
        t = gap / stderr if stderr else (math.inf if gap else 0.0)
        found.append(Comparison(better, worse, gap, stderr, min(1.0, len(pairs) * two_sided(t, seeds - 1))))
    with_best = [one for one in found if one.better == order[0]]
    needed = critical((1 - confidence) / len(pairs), seeds - 1)
    tied = [one for one in with_best if one.p >= 1 - confidence]
    return Verdict(
        best=order[0],
        tied=tuple(one.worse for one in tied),
        comparisons=tuple(found),
        visible=needed * max(one.stderr for one in tied or with_best),
        confidence=confidence,
        seeds=seeds,
    )


def two_sided(t: float, freedom: int) -> float:
    """P(|T| > t) of Student's distribution: its finite series for whole degrees of freedom (Abramowitz & Stegun
    1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    power, term, total = (3, cosine, cosine) if odd else (2, 1.0, 1.0)
    while power < freedom:
        term *= cosine * cosine * (power - 1) / power
        total += term
        power += 2
    inside = 2 / math.pi * (angle + sine * total * (freedom > 1)) if odd else sine * total
    return max(0.0, 1 - inside)


def critical(p: float, freedom: int) -> float:
    """The t whose two-sided p-value is `p`, by halving."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > p and high < 1e12:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > p else (low, middle)
    return high


def said(p: float) -> str:
    """A p-value for reading."""
    return "< 0.001" if p < 1e-3 else f"{p:.3f}"
