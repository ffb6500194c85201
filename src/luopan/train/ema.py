"""An exponential moving average of the weights: a smoother model than the last one, at the cost of a copy in fp32.

shadow <- d * shadow + (1 - d) * weights after each good update (Polyak & Juditsky 1992; in training of deep networks
e.g. arXiv:1803.05407). d rises from 0.1 to the wanted decay as (1 + n) / (10 + n), n counting the good updates
before: otherwise a short run's average would mostly be the random weights that it started from. The count lives on
the device and in the checkpoint, and a bad update leaves the average alone without the host being asked.

Limits: only trainable parameters are averaged, not buffers; the copy lies on the same device as the weights (and is
sharded like them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from luopan.train.muon import local


class Ema:
    """The average of `parameters` (by name), which start as its first value. 0 < `decay` < 1."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.shadow = {name: p.detach().to(torch.float32, copy=True) for name, p in self.parameters.items()}
        device = next(iter(self.parameters.values())).device
        self.updates = torch.zeros((), dtype=torch.float32, device=device)  # good ones; exact up to 2**24

    @torch.no_grad()
    def update(self, bad: Tensor) -> None:
        """Take in the weights of now; where `bad` (a scalar on the device) is 1, nothing changes."""
        good = 1.0 - bad.to(self.updates)
        weight = good * (1.0 - torch.clamp((1.0 + self.updates) / (10.0 + self.updates), max=self.decay))
        for name, shadow in self.shadow.items():
            local(shadow).lerp_(local(self.parameters[name]).to(torch.float32), weight)
        self.updates += good

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint holds; the live tensors, so loading into them restores the average."""
        return {"shadow": dict(self.shadow), "updates": self.updates}

    @torch.no_grad()
    def copy_to(self, parameters: Mapping[str, Tensor]) -> None:
        """Write the average into `parameters`, which have the same names (and the same sharding)."""
        for name, shadow in self.shadow.items():
            local(parameters[name]).copy_(local(shadow))
