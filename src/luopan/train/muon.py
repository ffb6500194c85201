"""Muon: momentum whose direction is made orthogonal before it is applied, matrix by matrix.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): Nesterov momentum, five Newton-Schulz iterations in
bf16 that push all singular values towards 1, decoupled weight decay. The step is scaled by 0.2 sqrt(max(out, in)),
which gives it the size of a typical AdamW update, so that one learning rate serves both (Liu et al. 2025,
arXiv:2502.16982).

On a 2-D parameter this is `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` bit for bit (tests/train/test_muon.py).
torch's own was not used because of three things that it does not do: leave a bad update out by a flag on the device
(`found_inf`, as the fused AdamW has), take the experts of a mixture ([E, out, in], each its own matrix), and give the
same update for sharded weights as for whole ones (it multiplies bf16 shards, whose sums round differently: after three
updates of a toy model weights were 2e-4 apart, with a learning rate of 1e-2).

Limits: of sharded weights every rank gathers each matrix's update and orthogonalises all of it, as replicas do. On CUDA
it has not run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steepest at 0, singular values end between 0.5 and 1.5
SMALLEST_NORM = 1e-7
ADAMW_SIZE = 0.2  # root mean square of AdamW's updates, from Liu et al.


class Muon(torch.optim.Optimizer):
    """For matrices [out, in] and stacks of them [E, out, in], whole or sharded. Keys of groups: lr, weight_decay.

    `found_inf`, a scalar on the device, may be set before `step`: where it is 1 nothing changes.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, *, momentum: float = 0.95, ns_steps: int = 5
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "ns_steps": ns_steps})
        for group in self.param_groups:
            for parameter in group["params"]:
                assert parameter.ndim in (2, 3), parameter.shape
                buffer = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                self.state[parameter] = {"momentum_buffer": buffer}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, self.state[parameter]["momentum_buffer"], group)

    def _update(self, parameter: Tensor, gradient: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
        weights, gradient, past = local(parameter), local(gradient), local(buffer)
        momentum = past.lerp(gradient, 1 - group["momentum"])
        wanted = gradient.lerp(momentum, group["momentum"])  # Nesterov's
        direction = part(orthogonal(whole(wanted, parameter), group["ns_steps"]), parameter)
        rate = group["lr"] * ADAMW_SIZE * math.sqrt(max(parameter.shape[-2:]))
        moved = weights.mul(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)
        if self.found_inf is not None:
            bad = self.found_inf != 0
            momentum, moved = torch.where(bad, past, momentum), torch.where(bad, weights, moved)
        past.copy_(momentum)
        weights.copy_(moved)


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """[..., out, in] -> the same in bf16 with its singular values near 1, by `steps` Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    multiply_add = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    norm = x.norm() if x.ndim == 2 else x.norm(dim=(-2, -1), keepdim=True)
    x = x / norm.clamp(min=SMALLEST_NORM)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


# ---- shards ----


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (sharing its memory); any other tensor itself."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def whole(piece: Tensor, like: Any) -> Tensor:
    """All ranks' pieces of a tensor that is sharded as `like` is, put together; if `like` is not, `piece` itself."""
    if not hasattr(like, "to_local"):
        return piece
    from torch.distributed.tensor import DTensor

    laid_out = DTensor.from_local(
        piece, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    full: Tensor = laid_out.full_tensor()
    return full


def part(full: Tensor, like: Any) -> Tensor:
    """This rank's piece of a whole tensor, cut as `like` is; no data travels."""
    if not hasattr(like, "to_local"):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    cut = DTensor.from_local(full, like.device_mesh, everywhere, run_check=False).redistribute(
        placements=like.placements
    )
    return local(cut)
