"""Merging model folders and adapter folders, tensor by tensor, into a folder that is there whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from luopan.artifacts import atomic_write_json, fsync_tree, mend_os_errors, sha256_file
from luopan.errors import ArtifactError, ModelError
from luopan.model.merge import MergePlan, check_plan, merge_tensors
from luopan.model.peft_files import CONFIG as ADAPTER
from luopan.model.peft_files import WEIGHTS as ADAPTER_WEIGHTS
from luopan.model.peft_files import read_adapter_config

WEIGHTS, INDEX, RECORD = "model.safetensors", "model.safetensors.index.json", "merge.json"
# Keys of config.json that say nothing about the shape or the arithmetic.
BOOKKEEPING = frozenset(
    {"_name_or_path", "torch_dtype", "dtype", "transformers_version", "architectures", "use_cache", "bos_token_id",
     "eos_token_id", "pad_token_id", "_from_model_config"}
)  # fmt: skip
TEMPLATE = "chat_template.jinja"


def merge_folders(
    models: Sequence[Path],
    out: Path,
    plan: MergePlan,
    base: Path | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the merged model (or adapter) to `out`; returns what `merge.json` there holds.

    Raises ModelError for models of other shapes, with the key or tensor that differs; ArtifactError where `out` exists.
    """
    if out.exists():
        raise ArtifactError("exists already; not overwritten", where=out, hint="Remove it or give another folder.")
    adapters = [(folder / ADAPTER).is_file() for folder in models]
    if any(adapters) and not all(adapters):
        first = models[adapters.index(True)]
        raise ModelError(
            "is an adapter, and the others are whole models", where=first, hint="Merge it into its base first."
        )
    try:
        check_plan(plan, len(models), base is not None)
    except ValueError as error:
        raise ModelError(str(error)) from error
    work = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with mend_os_errors(out):
            work.mkdir(parents=True)
            if all(adapters):
                _merge_adapters(models, work, plan)
            else:
                _merge_models(models, work, plan, base, said)
            record = _record(models, plan, base)
            atomic_write_json(work / RECORD, record)
            fsync_tree(work)
            work.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def check_alike(models: Sequence[Path]) -> list[str]:
    """Warnings about what models of one shape differ in; ModelError naming the key for models that cannot be merged."""
    first, *others = [(folder, _json(folder / "config.json")) for folder in models]
    warnings = []
    for folder, config in others:
        for key in sorted({*first[1], *config} - BOOKKEEPING, key=lambda key: (key == "head_dim", key)):
            one, other = first[1].get(key), config.get(key)
            if one != other:
                raise ModelError(
                    f"{key} is {other!r}, in {first[0]} it is {one!r}: only models of one shape can be merged",
                    where=folder,
                )
        if _vocabulary(folder) != _vocabulary(first[0]):
            raise ModelError(
                f"its tokenizer is not that of {first[0]}: the same token would mean different things", where=folder
            )
        if _text(folder / TEMPLATE) != _text(first[0] / TEMPLATE):
            warnings.append(f"{folder} has another chat template; that of {first[0]} is kept")
    return warnings


def _merge_models(
    models: Sequence[Path], work: Path, plan: MergePlan, base: Path | None, said: Callable[[str], None]
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    everyone = [*models, *([base] if base is not None else [])]
    for warning in check_alike(everyone):
        said(warning)
    places = [_places(folder) for folder in everyone]
    for folder, found in zip(everyone[1:], places[1:], strict=True):
        if odd := sorted(set(found) ^ set(places[0])):
            raise ModelError(f"{odd[0]} is in one model and not in the other", where=folder)
    opened: dict[Path, Any] = {}

    def read(file: Path, name: str) -> Tensor:
        if file not in opened:
            opened[file] = safe_open(file, "pt")
        tensor: Tensor = opened[file].get_tensor(name)
        return tensor

    merged: dict[str, Tensor] = {}
    for name in places[0]:
        parts = [read(found[name], name) for found in places]
        last = parts.pop() if base is not None else None
        merged[name] = merge_tensors(name, parts, plan, last).contiguous()
    save_file(merged, work / WEIGHTS, metadata={"format": "pt"})
    for file in models[0].iterdir():
        if file.is_file() and file.suffix in (".json", ".jinja", ".model", ".txt") and file.name not in (INDEX, RECORD):
            shutil.copyfile(file, work / file.name)


def _merge_adapters(models: Sequence[Path], work: Path, plan: MergePlan) -> None:
    """The weighted sum of changes as one adapter: A stacked, B side by side with the weights in it."""
    import torch
    from safetensors.torch import load_file, save_file

    if plan.method != "linear":
        raise ModelError(f"adapters are merged by linear, not by {plan.method}", hint="Merge each into its base first.")
    configs = [read_adapter_config(folder) for folder in models]
    for folder, config in zip(models, configs, strict=True):
        for key in ("luopan_base_content", "target_modules", "use_dora", "modules_to_save"):
            if _as_set(config.get(key)) != _as_set(configs[0].get(key)):
                raise ModelError(f"{key} is {config.get(key)!r}, in {models[0]} {configs[0].get(key)!r}", where=folder)
        if config.get("use_dora"):
            raise ModelError("DoRA's lengths do not add up", where=folder, hint="Merge each into its base first.")
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            raise ModelError("rank_pattern and alpha_pattern are not merged", where=folder)
    weights = list(plan.weights) or [1.0] * len(models)
    total = sum(weights) if plan.normalize else 1.0
    states = [load_file(folder / ADAPTER_WEIGHTS) for folder in models]
    merged: dict[str, Tensor] = {}
    for name in states[0]:
        if any(name not in state for state in states):
            raise ModelError(f"{name} is in one adapter and not in the other", where=models[1])
        parts = [state[name].float() for state in states]
        if name.endswith("lora_A.weight"):
            merged[name] = torch.cat(parts, 0)
        elif name.endswith("lora_B.weight"):
            scaled = [
                part * (weight / total * _scaling(config))
                for part, weight, config in zip(parts, weights, configs, strict=True)
            ]
            merged[name] = torch.cat(scaled, 1)
        else:
            merged[name] = merge_tensors(name, parts, plan)
    rank = sum(int(config["r"]) for config in configs)
    save_file(
        {name: tensor.contiguous() for name, tensor in merged.items()},
        work / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    # The scales are in B, so alpha is the rank and the scale 1.
    atomic_write_json(work / ADAPTER, {**configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False})


def _scaling(config: Mapping[str, Any]) -> float:
    rank = int(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _as_set(value: Any) -> Any:
    return frozenset(value) if isinstance(value, list) else value


def _places(folder: Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).is_file():
        table = _json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict) or any(Path(str(name)).name != name for name in table.values()):
            raise ModelError("weight_map is missing, or names a file elsewhere", where=folder / INDEX)
        return {name: folder / file for name, file in sorted(table.items())}
    try:
        with safe_open(folder / WEIGHTS, "pt") as opened:
            return dict.fromkeys(sorted(opened.keys()), folder / WEIGHTS)
    except FileNotFoundError:
        raise ModelError(f"there is no {WEIGHTS}", where=folder) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"is damaged or no safetensors file ({error})", where=folder / WEIGHTS) from error


def _vocabulary(folder: Path) -> Any:
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    found = _json(file)
    return [found.get("model"), found.get("added_tokens")]


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("there is no such file", where=file, hint="Give the folder of a saved model.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", where=file) from error
    if not isinstance(value, dict):
        raise ModelError("is not a JSON object", where=file)
    return value


def _record(models: Sequence[Path], plan: MergePlan, base: Path | None) -> dict[str, Any]:
    """Where a merged model came from."""

    def source(folder: Path) -> dict[str, Any]:
        files = sorted(file for file in folder.glob("*.safetensors"))
        return {"path": str(folder), "sha256": {file.name: sha256_file(file) for file in files}}

    return {
        "method": plan.method,
        "weights": list(plan.weights) or None,
        "normalize": plan.normalize,
        **({"t": plan.t} if plan.method == "slerp" else {}),
        **({"density": plan.density} if plan.method == "ties" else {}),
        **({"scale": plan.scale} if base is not None else {}),
        "models": [source(folder) for folder in models],
        "base": source(base) if base is not None else None,
    }
