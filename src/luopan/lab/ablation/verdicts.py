"""Better, worse, or within noise: what the seeds of two arms say, pair by pair.

Seed k of every arm draws the same random numbers, so its difference to the baseline's seed k is free of what both
share. The verdict is a paired t-test at 95%, its p-value multiplied by the number of arms compared (Bonferroni). The
noise band is the spread of the baseline's replicas. Limits: three seeds see large effects only, and `visible` says how
large; differences are taken as normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from luopan.stages.mixture_verdict import critical, said, two_sided

LEVEL = 0.05
Outcome = Literal["better", "worse", "within noise", "diverged"]


@dataclass(frozen=True)
class Verdict:
    """Of an arm against the baseline, in the figure's own unit. `difference`: arm minus baseline."""

    arm: str
    outcome: Outcome
    mean: float | None
    difference: float | None = None
    stderr: float | None = None
    p: float | None = None
    visible: float | None = None  # the smallest difference that would have counted

    def text(self, unit: str = "") -> str:
        mark = f" {unit}" if unit and unit != "%" else ""
        if self.difference is None or self.p is None or self.visible is None or self.stderr is None:
            return f"{self.arm} diverged"
        scale, digits = (100.0, 2) if unit == "%" else (1.0, 4)
        mark = " points" if unit == "%" else mark
        sign = f"{scale * self.difference:+.{digits}f} ± {scale * self.stderr:.{digits}f}{mark}"
        seen = f"; differences below {scale * self.visible:.{digits}f} cannot be told from chance"
        return (
            f"{self.arm} is {self.outcome} ({sign}, p {said(self.p)}{seen if self.outcome == 'within noise' else ''})"
        )


def judge(
    values: Mapping[str, Sequence[float | None]], baseline: str, *, higher_is_better: bool
) -> tuple[list[Verdict], float]:
    """(verdicts of all arms but the baseline, the noise band: standard deviation of the baseline's seeds).

    `values` of each arm by seed; None for a training that diverged. ValueError where the baseline itself did.
    """
    reference = values[baseline]
    if any(value is None for value in reference):
        raise ValueError("the baseline diverged")
    base = [value for value in reference if value is not None]
    others = [name for name in values if name != baseline]
    found = []
    for name in others:
        own = [value for value in values[name] if value is not None]
        if len(own) < len(base):
            found.append(Verdict(name, "diverged", fmean(own) if own else None))
            continue
        gaps = [one - other for one, other in zip(own, base, strict=True)]
        gap, stderr = fmean(gaps), stdev(gaps) / math.sqrt(len(gaps))
        t = gap / stderr if stderr else (math.inf if gap else 0.0)
        p = min(1.0, len(others) * two_sided(t, len(gaps) - 1))
        visible = critical(LEVEL / len(others), len(gaps) - 1) * stderr
        outcome: Outcome = "within noise"
        if p < LEVEL:
            outcome = "better" if (gap > 0) == higher_is_better else "worse"
        found.append(Verdict(name, outcome, fmean(own), gap, stderr, p, visible))
    return found, stdev(base)
