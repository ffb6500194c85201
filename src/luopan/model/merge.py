"""One model out of the weights of several of the same shape.

  linear           sum of w_i x_i, divided by the sum of the w_i unless `normalize` is off (soup: equal weights;
                   Wortsman et al. 2022, arXiv:2203.05482)
  slerp            along the arc between two: sin((1-t)o)/sin(o) x_1 + sin(to)/sin(o) x_2, o the angle between the
                   tensors as vectors; linear where they are (anti)parallel
  task_arithmetic  base + lambda * sum of w_i (x_i - base) (Ilharco et al. 2022, arXiv:2212.04089)
  ties             the same with each difference trimmed to the largest `density` of its entries, and of those only the
                   ones whose sign wins by total weight, averaged by weight (Yadav et al. 2023, arXiv:2306.01708)

In fp32, one tensor at a time, each trimmed and turned for itself, as mergekit does it: trimming `density` of every
tensor (the paper trims all of them together), of equal magnitudes the first; where opposite signs weigh the same, plus
wins. Otherwise than there, an arc to a tensor of zeros is a line. `merge_files.py` reads and writes the folders,
`merge_adapters.py` does adapters. Limit: DARE and other random trimming are not done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from luopan.errors import ModelError

Method = Literal["linear", "slerp", "task_arithmetic", "ties"]
PARALLEL = 0.9995  # cosine from which on an arc is a line


@dataclass(frozen=True)
class MergePlan:
    """How to merge: `weights` one for each model; `t` for slerp, `density` for ties, `scale` (lambda) with a base."""

    method: Method = "linear"
    weights: tuple[float, ...] = ()
    normalize: bool = True
    t: float = 0.5
    density: float = 0.5
    scale: float = 1.0


def check_plan(plan: MergePlan, models: int, has_base: bool, adapters: bool = False) -> None:
    """ValueError for what cannot work, or would do nothing. Adapters are changes already: they take no base."""
    if plan.method not in get_args(Method):
        raise ValueError(f"method {plan.method!r} is unknown; it is one of {', '.join(get_args(Method))}")
    if models < 2:
        raise ValueError("merging takes two models at least")
    if adapters and plan.method == "ties":
        raise ValueError("ties makes no adapter of adapters: a change that is trimmed has no low rank any more")
    wants_base = plan.method in ("task_arithmetic", "ties") and not adapters
    if wants_base and not has_base:
        raise ValueError(f"{plan.method} needs a base: the model that the others were trained from")
    if has_base and not wants_base:
        raise ValueError(f"base has no effect with {'adapters' if adapters else plan.method}")
    if not plan.normalize and (plan.method != "linear" or not plan.weights):
        raise ValueError("normalize: false has no effect without linear and weights")
    if plan.method == "slerp":
        if models != 2:
            raise ValueError(f"slerp takes two models, not {models}")
        if plan.weights:
            raise ValueError("weights have no effect with slerp: t says where between the two")
        if not 0 <= plan.t <= 1:
            raise ValueError(f"t is {plan.t}, it must be between 0 and 1")
    if plan.weights and len(plan.weights) != models:
        raise ValueError(f"{len(plan.weights)} weights for {models} models")
    if any(not math.isfinite(number) for number in (*plan.weights, plan.scale)):
        raise ValueError("a weight or the scale is not a finite number")
    if plan.method == "linear" and plan.normalize and plan.weights and abs(sum(plan.weights)) < 1e-9:
        raise ValueError("the weights add up to 0 and cannot be normalised")
    if not 0 < plan.density <= 1:
        raise ValueError(f"density is {plan.density}, it must be above 0 and at most 1")


def merge_tensors(name: str, tensors: Sequence[Tensor], plan: MergePlan, base: Tensor | None = None) -> Tensor:
    """The merged tensor, in the first one's dtype. ModelError naming `name` for other shapes or what is not finite."""
    shapes = {tuple(tensor.shape) for tensor in [*tensors, *([base] if base is not None else [])]}
    if len(shapes) > 1:
        raise ModelError(
            f"{name} has shapes {', '.join(map(str, sorted(shapes)))}: only models of one shape can be merged"
        )
    if not tensors[0].is_floating_point():
        if not all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
            raise ModelError(
                f"{name} holds {tensors[0].dtype}, which cannot be averaged, and differs between the models"
            )
        return tensors[0].clone()
    whole = [tensor.float() for tensor in tensors]
    for number, tensor in enumerate([*whole, *([base] if base is not None else [])], start=1):
        if not bool(torch.isfinite(tensor).all()):
            which = "the base" if number > len(whole) else f"model {number}"
            raise ModelError(f"{name} of {which} holds numbers that are not finite")
    mean = plan.method == "slerp" or (plan.method == "linear" and plan.normalize)
    if mean and all(torch.equal(tensor, whole[0]) for tensor in whole[1:]):
        return tensors[0].clone()  # to the bit, whatever rounding would make of the sum
    weights = list(plan.weights) or [1.0] * len(whole)
    merged = METHODS[plan.method](whole, weights, plan, None if base is None else base.float())
    found = merged.to(tensors[0].dtype)
    if not bool(torch.isfinite(found).all()):
        raise ModelError(
            f"{name}: the sum is too large for {tensors[0].dtype}",
            hint="Weights that add up to more than 1 make larger numbers: normalise them, or merge models in bf16.",
        )
    return found


def _linear(tensors: Sequence[Tensor], weights: Sequence[float], plan: MergePlan, base: Tensor | None) -> Tensor:
    total = sum(weights) if plan.normalize else 1.0
    merged = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        merged += tensor * (weight / total)
    return merged


def _slerp(tensors: Sequence[Tensor], weights: Sequence[float], plan: MergePlan, base: Tensor | None) -> Tensor:
    one, other = tensors
    lengths = float(one.norm() * other.norm())
    first, second = arc(float((one * other).sum()) / lengths if lengths else 1.0, plan.t)
    return first * one + second * other


def arc(cosine: float, t: float) -> tuple[float, float]:
    """What the two ends of an arc are times at `t`; those of a line where they are (anti)parallel."""
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _task_arithmetic(
    tensors: Sequence[Tensor], weights: Sequence[float], plan: MergePlan, base: Tensor | None
) -> Tensor:
    assert base is not None
    change = torch.zeros_like(base)
    for tensor, weight in zip(tensors, weights, strict=True):
        change += weight * (tensor - base)
    return base + plan.scale * change


def _ties(tensors: Sequence[Tensor], weights: Sequence[float], plan: MergePlan, base: Tensor | None) -> Tensor:
    assert base is not None
    changes = torch.stack([weight * trim(tensor - base, plan.density) for tensor, weight in zip(tensors, weights)])
    elected = torch.where(changes.sum(0) >= 0, 1.0, -1.0)  # the sign with more weight behind it
    agrees = changes.sign() == elected
    share = torch.tensor(weights).view(-1, *[1] * base.ndim)  # [models, 1, …]
    divisor = (agrees * share).sum(0)
    merged = (changes * agrees).sum(0) / torch.where(divisor == 0, 1.0, divisor)
    return base + plan.scale * merged


def trim(change: Tensor, density: float) -> Tensor:
    """`change` with all but its largest entries set to 0; a share `density` of them is kept, and one at least."""
    kept = max(1, math.floor(density * change.numel() + 1e-9))
    if kept >= change.numel():
        return change
    sizes = change.abs().flatten()
    threshold = sizes.kthvalue(change.numel() - kept + 1).values
    stays = sizes > threshold
    equal = (sizes == threshold).nonzero().squeeze(1)
    stays[equal[: kept - int(stays.sum())]] = True
    return torch.where(stays.view_as(change), change, torch.zeros_like(change))


METHODS: Mapping[str, Callable[[Sequence[Tensor], Sequence[float], MergePlan, Tensor | None], Tensor]] = {
    "linear": _linear,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
}
