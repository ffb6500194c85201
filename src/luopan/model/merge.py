"""One model out of the weights of several of the same shape.

  linear           sum of w_i x_i, divided by the sum of the w_i unless `normalize` is off (soup: equal weights;
                   Wortsman et al. 2022, arXiv:2203.05482)
  slerp            along the arc between two: sin((1-t)o)/sin(o) x_1 + sin(to)/sin(o) x_2, o the angle between the
                   tensors as vectors; linear where they are (anti)parallel
  task_arithmetic  base + lambda * sum of w_i (x_i - base) (Ilharco et al. 2022, arXiv:2212.04089)
  ties             the same with each difference trimmed to the largest `density` of its entries, and of those only the
                   ones whose sign wins by total weight, averaged by weight (Yadav et al. 2023, arXiv:2306.01708)

Tensor by tensor from the files, in fp32, so that several large models never lie in memory together. Adapters are merged
exactly: the sum of changes B_i A_i is one adapter of the ranks' sum. Averaging A and B apart, as is often done, is no
average of the changes. Limits: adapters by `linear` alone; DARE and other random trimming are not done.
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


def check_plan(plan: MergePlan, models: int, has_base: bool) -> None:
    """ValueError for what cannot work, or would do nothing."""
    if plan.method not in get_args(Method):
        raise ValueError(f"method {plan.method!r} is unknown; it is one of {', '.join(get_args(Method))}")
    if models < 2:
        raise ValueError("merging takes two models at least")
    wants_base = plan.method in ("task_arithmetic", "ties")
    if wants_base and not has_base:
        raise ValueError(f"{plan.method} needs a base: the model that the others were trained from")
    if has_base and not wants_base:
        raise ValueError(f"base has no effect with {plan.method}")
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
    if not plan.normalize and (plan.method != "linear" or not plan.weights):
        raise ValueError("normalize: false has no effect without linear and weights")
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
        return tensors[0].clone()  # counts and the like
    whole = [tensor.float() for tensor in tensors]
    for number, tensor in enumerate(whole, start=1):
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} of model {number} holds numbers that are not finite")
    if all(torch.equal(tensor, whole[0]) for tensor in whole[1:]) and plan.method in ("linear", "slerp"):
        if plan.method == "slerp" or plan.normalize:
            return tensors[0].clone()  # to the bit, whatever rounding would make of the sum
    weights = list(plan.weights) or [1.0] * len(whole)
    merged = METHODS[plan.method](whole, weights, plan, None if base is None else base.float())
    merged = merged.to(tensors[0].dtype)
    if not bool(torch.isfinite(merged).all()):
        raise ModelError(f"{name} comes to numbers that are not finite", hint="Look at weights and scale.")
    return merged


def _linear(tensors: Sequence[Tensor], weights: Sequence[float], plan: MergePlan, base: Tensor | None) -> Tensor:
    total = sum(weights) if plan.normalize else 1.0
    merged = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        merged += tensor * (weight / total)
    return merged


def _slerp(tensors: Sequence[Tensor], weights: Sequence[float], plan: MergePlan, base: Tensor | None) -> Tensor:
    one, other = tensors
    lengths = one.norm() * other.norm()
    cosine = float((one * other).sum() / lengths) if float(lengths) else 1.0
    if abs(cosine) > PARALLEL:
        return (1 - plan.t) * one + plan.t * other
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    return math.sin((1 - plan.t) * angle) / math.sin(angle) * one + math.sin(plan.t * angle) / math.sin(angle) * other


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
    elected = changes.sum(0).sign()  # the sign with more weight behind it
    agrees = (changes.sign() == elected) & (changes != 0)
    share = torch.tensor(weights).view(-1, *[1] * base.ndim)  # [models, 1, …]
    divisor = (agrees * share).sum(0)
    merged = (changes * agrees).sum(0) / torch.where(divisor == 0, 1.0, divisor)
    return base + plan.scale * merged


def trim(change: Tensor, density: float) -> Tensor:
    """`change` with all but its largest entries set to 0; a share `density` of them is kept, one at least."""
    kept = max(1, round(density * change.numel()))
    if kept >= change.numel():
        return change
    threshold = change.abs().flatten().kthvalue(change.numel() - kept + 1).values
    return torch.where(change.abs() >= threshold, change, torch.zeros_like(change))


METHODS: Mapping[str, Callable[[Sequence[Tensor], Sequence[float], MergePlan, Tensor | None], Tensor]] = {
    "linear": _linear,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
}
