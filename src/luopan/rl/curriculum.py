"""Which prompts are drawn: those that are neither solved nor out of reach more often than the others.

Groups whose answers are all right or all wrong teach nothing, and a prompt that was solved nine times of ten will
mostly give such a group again. So each prompt has a running share of solved answers, and its weight in the draw falls
with the distance of that share from `target`. No prompt's weight falls to 0: what was out of reach may come into it.

The shares are what one generation hands to the next (`Collected.carry`), so they are in its buffer file, and a run that
goes on draws as if it had never stopped. A prompt is known by its `key`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

PREFIX = "solved/"


@dataclass(frozen=True)
class PassRates:
    """Shares by the key of the prompt; those that were not drawn yet have `starts_at`.

    The weight of a prompt is `floor` + (1 - floor) exp(-((share - target) / width)^2 / 2); a visit in which a share s
    of the answers is right makes of its share p: `decay` p + (1 - decay) s.
    """

    target: float = 0.5
    width: float = 0.25
    floor: float = 0.1
    decay: float = 0.5
    starts_at: float = 0.5

    def chances(self, carry: Mapping[str, float], count: int) -> np.ndarray:
        """The probability of each of `count` prompts in the next draw; they sum to 1."""
        shares = np.full(count, self.starts_at)
        for key, share in known(carry).items():
            if key < count:
                shares[key] = share
        weights = self.floor + (1 - self.floor) * np.exp(-0.5 * ((shares - self.target) / self.width) ** 2)
        return np.asarray(weights / weights.sum())

    def after(self, carry: Mapping[str, float], visits: Iterable[tuple[int, float]]) -> dict[str, float]:
        """The carry with what (key, share of right answers) of a generation say."""
        shares = known(carry)
        for key, share in visits:
            shares[key] = self.decay * shares.get(key, self.starts_at) + (1 - self.decay) * share
        return {f"{PREFIX}{key}": share for key, share in sorted(shares.items())}


def known(carry: Mapping[str, float]) -> dict[int, float]:
    """The shares of the prompts that were drawn at least once."""
    return {int(name.removeprefix(PREFIX)): share for name, share in carry.items() if name.startswith(PREFIX)}


def figures(carry: Mapping[str, float]) -> dict[str, float]:
    """For the log: how many prompts were drawn so far, their mean share, and how many are solved or out of reach."""
    shares = list(known(carry).values())
    return {
        "curriculum/drawn": float(len(shares)),
        "curriculum/share": fmean(shares) if shares else float("nan"),
        "curriculum/solved": float(sum(share > 0.9 for share in shares)),
        "curriculum/out_of_reach": float(sum(share < 0.1 for share in shares)),
    }
