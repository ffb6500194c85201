"""The gradient noise scale: the batch size above which more rows per step buy less (McCandlish et al. 2018).

arXiv:1812.06162, appendix A.1: the expected squared norm of a gradient over B examples is |G|^2 + tr(S) / B, so the
norms at two batch sizes give both unknowns. The small one is a micro-batch, the big one the whole step; the simple
noise scale is tr(S) / |G|^2. Both estimates are noisy, the norm's can even be negative, so each is averaged over steps
before they are divided. The scale is in the unit of the batch sizes that are handed in (trained tokens in the loop).

Limits: it assumes that micro-batches are independent draws. Tokens of one document are not, so a scale in tokens is
for comparing with the step's own tokens, not an absolute figure; and it predicts the best batch for plain SGD, for
AdamW and Muon it tells the order of magnitude. It grows as the loss falls.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def signal_and_noise(small_square: Tensor, big_square: Tensor, small: Tensor, big: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased estimates of |G|^2 and tr(S) from squared norms of mean gradients over `small` and `big` examples.

    Equations A.2 and A.3 of the paper. All scalars; not finite where `small` is not less than `big`.
    """
    signal = (big * big_square - small * small_square) / (big - small)
    noise = (small_square - big_square) / (1.0 / small - 1.0 / big)
    return signal, noise


class NoiseScale:
    """The two estimates averaged over steps; nothing waits for the host until `value` or `state` is asked."""

    def __init__(self, device: torch.device | str, decay: float = 0.99) -> None:
        self.decay = decay
        # Means that have not yet forgotten their start at 0: [signal, noise, weight of what went in].
        self.sums = torch.zeros(3, dtype=torch.float32, device=device)

    @torch.no_grad()
    def add(self, small_square: Tensor, big_square: Tensor, small: Tensor, big: Tensor) -> None:
        """One step's squared norms. What is not finite (a bad step, a step of one micro-batch) is left out."""
        new = torch.stack([*signal_and_noise(small_square, big_square, small, big), torch.ones_like(small_square)])
        new = new.to(self.sums)
        self.sums = torch.where(torch.isfinite(new).all(), self.sums.lerp(new, 1.0 - self.decay), self.sums)

    def value(self) -> float:
        """The noise scale, read from the device; nan where there is none (yet): no step, or one of
        the two estimates lost in the other."""
        signal, noise, weight = self.sums.tolist()
        return noise / signal if weight > 0 and signal > 0 and noise > 0 else math.nan

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON; exact."""
        return {"sums": self.sums.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.sums = torch.tensor(state["sums"], dtype=torch.float32, device=self.sums.device)
