"""Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, in and out.

What is written loads with `peft.PeftModel.from_pretrained` on the base model, with the same logits; what PEFT writes
for linear layers (LoRA, rsLoRA, DoRA, ranks by pattern, modules trained in full) is read. What would change the
result and is not done here is refused by its key. Safetensors only: a pickle is never opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luopan.artifacts.files import atomic_write_json, mend_os_errors
from luopan.errors import ModelError
from luopan.model.adapter_config import AdapterConfig
from luopan.model.decoder import Decoder
from luopan.model.hf import write_tensors
from luopan.model.lora import AdapterSummary, attach, lora_layers, saved_modules, summary

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_PARTS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_magnitude": "lora_magnitude_vector"}
# Keys that change the result, and the values under which they do not.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "layers_to_transform": (None,),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, {}, []),
    "exclude_modules": (None, [], ""),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "corda_config": (None,),
    "eva_config": (None,),
}


def save_adapter(
    model: Decoder, folder: Path | str, base_name: str, config: AdapterConfig, base_content: str | None = None
) -> None:
    """Write the adapter of `model` to `folder`.

    `base_name` is what it belongs to, a path or a hub id; `base_content` a hash of its weights.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, layer in lora_layers(model).items():
        rank = layer.lora_A.shape[0]
        alpha = layer.scaling * (rank**0.5 if config.use_rslora else rank)
        if rank != config.r:
            ranks[_hf(name)] = rank
        if abs(alpha - config.lora_alpha) > 1e-9 * alpha:
            alphas[_hf(name)] = alpha
        for own, theirs in _PARTS.items():
            value = getattr(layer, own)
            if value is not None:
                tensors[f"{_PREFIX}{_hf(name)}.{theirs}"] = value.detach().cpu().contiguous()
    modules = []
    for name in saved_modules(model):
        value = model.get_parameter(name).detach().cpu().contiguous()
        tensors[f"{_PREFIX}{_hf(name)}"] = value
        # The whole name: PEFT goes by endings, and "norm" ends every layer's norms.
        modules.append(_hf(name).rpartition(".")[0])
        if name == "embed_tokens.weight" and model.lm_head is None:
            tensors[f"{_PREFIX}lm_head.weight"] = value.clone()  # the same weight twice, which PEFT keeps apart
            modules.append("lm_head")
    if not tensors:
        raise ModelError("the model has no adapter to save")
    with mend_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, tensors)
    atomic_write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            **({"luopan_base_content": base_content} if base_content else {}),
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
            "use_rslora": config.use_rslora,
            "use_dora": config.use_dora,
            # The layers themselves and not the pattern: what matches depends on who matches it.
            "target_modules": sorted({_hf(name) for name in lora_layers(model)}),
            "modules_to_save": sorted(set(modules)) or None,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
        },
    )


def read_adapter_config(folder: Path | str) -> dict[str, Any]:
    """`adapter_config.json`, checked. ModelError for another kind of adapter, or a key that is not honoured here."""
    file = Path(folder) / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            "there is no such file", where=file, hint="An adapter's folder holds adapter_config.json."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", where=file) from error
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        found = values.get("peft_type") if isinstance(values, dict) else values
        raise ModelError(f"peft_type is {found!r}; LORA is what is read here", where=file)
    began = values.get("init_lora_weights")
    if isinstance(began, str) and began.lower().startswith(("pissa", "olora", "corda", "eva", "loftq")):
        raise ModelError(f"init_lora_weights is {began!r}: such an adapter belongs to changed base weights", where=file)
    for key, harmless in _REFUSED.items():
        if key in values and values[key] not in harmless:
            raise ModelError(f"{key} is {values[key]!r}, which is not done here", where=file)
    return values


def load_adapter(model: Decoder, folder: Path | str) -> tuple[AdapterSummary, AdapterConfig]:
    """Attach the adapter in `folder` to `model`. ModelError where the two do not belong together."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    values = read_adapter_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        pickled = (folder / "adapter_model.bin").is_file()
        hint = "adapter_model.bin is a pickle, which can run code: convert it to safetensors." if pickled else None
        raise ModelError(f"there is no {WEIGHTS}", where=folder, hint=hint) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"is damaged or no safetensors file ({error})", where=folder / WEIGHTS) from error
    ours = {_ours(name, folder): value for name, value in tensors.items()}
    layers = sorted({name.rpartition(".")[0] for name in ours if name.endswith(".lora_A")})
    saved = sorted({name for name in ours if not name.endswith(tuple(_PARTS))})
    if model.lm_head is None and {"lm_head.weight", "embed_tokens.weight"} & set(saved):
        head, embedding = ours.get("lm_head.weight"), ours.get("embed_tokens.weight")
        if head is None or embedding is None or not torch.equal(head, embedding):
            raise ModelError("trains head or embedding apart, and they are one in this model", where=folder / WEIGHTS)
        saved.remove("lm_head.weight")
    config = AdapterConfig(
        r=values["r"],
        lora_alpha=values["lora_alpha"],
        lora_dropout=values.get("lora_dropout") or 0.0,
        use_rslora=bool(values.get("use_rslora")),
        use_dora=bool(values.get("use_dora")),
        target_modules=tuple(layers),
        modules_to_save=tuple(name.rpartition(".")[0] for name in saved),
    )
    attach(model, config)
    for name, layer in lora_layers(model).items():
        _fill(layer, name, ours, values, folder)
    for name in saved:
        _copy(model.get_parameter(name), ours[name], name, folder)
    return summary(model, config), config


def _fill(layer: Any, name: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any], folder: Path) -> None:
    """One layer's A, B and lengths; its rank and scale may be its own (rank_pattern, alpha_pattern)."""
    rank = _by_pattern(values.get("rank_pattern"), name, values["r"])
    alpha = _by_pattern(values.get("alpha_pattern"), name, values["lora_alpha"])
    layer.scaling = alpha / (rank**0.5 if values.get("use_rslora") else rank)
    if rank != layer.lora_A.shape[0]:
        layer.lora_A = nn.Parameter(torch.empty(rank, layer.in_features))
        layer.lora_B = nn.Parameter(torch.empty(layer.out_features, rank))
    for part in _PARTS:
        target = getattr(layer, part)
        if target is None:
            continue
        if f"{name}.{part}" not in tensors:
            raise ModelError(f"{name} has no {part}", where=folder / WEIGHTS)
        _copy(target, tensors[f"{name}.{part}"], f"{name}.{part}", folder)


@torch.no_grad()
def _copy(target: nn.Parameter, value: Tensor, name: str, folder: Path) -> None:
    if target.shape != value.shape:
        hint = "Is this the model that the adapter was trained on?"
        raise ModelError(
            f"{name} is {list(value.shape)}, the model wants {list(target.shape)}", where=folder / WEIGHTS, hint=hint
        )
    target.copy_(value)


def _by_pattern(patterns: Any, name: str, default: Any) -> Any:
    """PEFT's rule: the first key that the end of the layer's name matches, as a regular expression."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", _hf(name)):
            return value
    return default


def _hf(name: str) -> str:
    return name if name.startswith("lm_head") else f"model.{name}"


def _ours(name: str, folder: Path) -> str:
    """Our name of one of PEFT's tensors."""
    if not name.startswith(_PREFIX):
        raise ModelError(f"{name} is no tensor of an adapter", where=folder / WEIGHTS)
    name = name.removeprefix(_PREFIX).replace(".modules_to_save.default.", ".").replace(".default.", ".")
    name = name.removeprefix("model.")
    for own, theirs in _PARTS.items():
        for ending in (f".{theirs}", f".{theirs}.weight"):
            if name.endswith(ending):
                return f"{name.removesuffix(ending)}.{own}"
    return name
