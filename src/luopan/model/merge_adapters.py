"""Merging adapters in PEFT's format: sums of their changes, exactly.

An adapter is a change s B A of each of its layers. A weighted sum of such changes is one adapter whose rank is the sum
of the ranks: the A one below the other, the B side by side with weight and scale in them. So linear, task_arithmetic
and slerp (its two factors from the angle between the changes of a layer) lose nothing. Averaging the A and the B apart,
as is often done, is another model: it mixes the A of one with the B of the other. Trimming (ties) leaves a change
without a low rank and is refused: merge each adapter into its base, and then the models.

Limits: one adapter lies in memory with its result, in fp32. DoRA, whose lengths are no sum, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luopan.artifacts import atomic_write_json
from luopan.errors import ModelError
from luopan.model.merge import MergePlan, arc, merge_tensors
from luopan.model.peft_files import CONFIG, WEIGHTS, read_adapter_config

A, B = ".lora_A.weight", ".lora_B.weight"
ALIKE = ("luopan_base_content", "base_model_name_or_path", "target_modules", "modules_to_save", "task_type")


def merge_adapters(models: Sequence[Path], work: Path, plan: MergePlan) -> None:
    """Write the merged adapter to `work`. ModelError naming the key or tensor that keeps adapters from being merged."""
    from safetensors.torch import load_file, save_file

    configs = [read_adapter_config(folder) for folder in models]
    for folder, config in zip(models, configs, strict=True):
        _check_config(folder, config, models[0], configs[0])
    states = [load_file(folder / WEIGHTS) for folder in models]
    for folder, state in zip(models, states, strict=True):
        _check_tensors(folder, state, states[0])
    weights = _weights(plan, len(models))
    merged: dict[str, Tensor] = {}
    for name in states[0]:
        if name.endswith(A):
            downs = [state[name].float() for state in states]
            ups = [
                state[name.removesuffix(A) + B].float() * _scaling(config)
                for state, config in zip(states, configs, strict=True)
            ]
            factors = _on_arc(downs, ups, plan.t) if plan.method == "slerp" else weights
            merged[name] = torch.cat(downs, 0)
            merged[name.removesuffix(A) + B] = torch.cat([f * up for f, up in zip(factors, ups, strict=True)], 1)
        elif not name.endswith(B):  # a module that is trained in full
            merged[name] = _in_full(name, [state[name] for state in states], plan, weights)
    rank = sum(int(config["r"]) for config in configs)
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, work / WEIGHTS, metadata={"format": "pt"})
    # The scales are in B, so alpha is the rank and the scale 1.
    atomic_write_json(work / CONFIG, {**configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False})


def _check_config(folder: Path, config: Mapping[str, Any], first: Path, wanted: Mapping[str, Any]) -> None:
    for key in ALIKE:
        if _as_set(config.get(key)) != _as_set(wanted.get(key)):
            raise ModelError(
                f"{key} is {config.get(key)!r}, in {first} it is {wanted.get(key)!r}",
                where=folder,
                hint="Only adapters of the same modules of the same base can be merged.",
            )
    if config.get("use_dora"):
        raise ModelError(
            "use_dora: DoRA's lengths do not add up", where=folder, hint="Merge each into its base, then the models."
        )
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError(
            "rank_pattern and alpha_pattern: adapters with ranks of their own are not merged",
            where=folder,
            hint="Merge each into its base, then the models.",
        )


def _check_tensors(folder: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    if odd := sorted(set(state) ^ set(wanted)):
        raise ModelError(f"{odd[0]} is in one adapter and not in the other", where=folder)
    for name, tensor in state.items():
        if "lora_" in name and not name.endswith((A, B)):
            raise ModelError(f"{name} is no part of a linear layer's adapter", where=folder)
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} holds numbers that are not finite", where=folder)


def _weights(plan: MergePlan, models: int) -> list[float]:
    """What each change is times."""
    weights = list(plan.weights) or [1.0] * models
    if plan.method == "task_arithmetic":
        return [plan.scale * weight for weight in weights]
    total = sum(weights) if plan.normalize else 1.0
    return [weight / total for weight in weights]


def _on_arc(downs: Sequence[Tensor], ups: Sequence[Tensor], t: float) -> tuple[float, float]:
    """The factors of two changes B A on the arc between them, without making either: <BA, DC> = <B'D, A C'>."""

    def inner(i: int, j: int) -> float:
        return float(((ups[i].T @ ups[j]) * (downs[i] @ downs[j].T)).sum())

    lengths = math.sqrt(max(0.0, inner(0, 0)) * max(0.0, inner(1, 1)))
    return arc(inner(0, 1) / lengths if lengths else 1.0, t)


def _in_full(name: str, tensors: Sequence[Tensor], plan: MergePlan, weights: Sequence[float]) -> Tensor:
    """A module that is trained in full: the same sum of changes, which without its base is only known for a mean."""
    if plan.method == "slerp":
        return merge_tensors(name, tensors, plan)
    if abs(sum(weights) - 1) > 1e-6:
        raise ModelError(
            f"{name} is trained in full, and the weights add up to {sum(weights):g}: what it was before is not known",
            hint="Use weights that add up to 1 (method linear, normalised), or merge each adapter into its base first.",
        )
    return merge_tensors(name, tensors, MergePlan("linear", tuple(weights)))


def _scaling(config: Mapping[str, Any]) -> float:
    rank = int(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _as_set(value: Any) -> Any:
    return frozenset(value) if isinstance(value, list) else value
