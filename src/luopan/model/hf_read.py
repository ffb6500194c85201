"""Hugging Face `config.json` to `ModelConfig`, for the families of `hf_architectures.py` and our own form.

Whatever changes the logits and is not implemented here (rope types we do not know, soft-capping, quantised weights …)
is a `ModelError` that names the key; bookkeeping keys are ignored, as transformers ignores them. Keys that a file
leaves out take the default of their transformers class, and what a class ignores is left out of the result. The
coefficient of the balance loss is taken over, `output_router_logits` or not: whether it is used is up to us.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.hf_architectures import COPIED, LUOPAN, REQUIRED, Architecture, find_architecture

# Keys that ask for something else than what we have, whatever the family.
_NOT_IMPLEMENTED: Mapping[str, str] = MappingProxyType(
    {
        "n_routed_experts": "mixture of experts of another kind",
        "attention_sinks": "attention sinks",
        "attn_sinks": "attention sinks",
        "use_attention_sinks": "attention sinks",
        "sink_tokens": "attention sinks",
        "attn_logit_softcapping": "soft-capped logits",
        "final_logit_softcapping": "soft-capped logits",
        "attention_dropout": "dropout",
        "router_jitter_noise": "router noise",
        "quantization_config": "quantised weights",
        "attention_chunk_size": "chunked attention",
        "logit_scale": "scaled logits",
        "embedding_multiplier": "scaled embeddings",
        "residual_multiplier": "scaled residuals",
    }
)
_EXPERTS = ("num_experts", "num_local_experts", "num_experts_per_tok")
_NEUTRAL_AT_ONE = ("logit_scale", "embedding_multiplier", "residual_multiplier")


def from_hf_config(values: Mapping[str, Any], where: object | None = None) -> ModelConfig:
    """The content of a `config.json`, as a ModelConfig. `where` (the file) is for the error messages."""
    if "model_type" not in values:
        raise ModelError("model_type is missing", where=where, hint="Is this the config.json of a language model?")
    if values["model_type"] == LUOPAN:
        if not isinstance(values.get(LUOPAN), Mapping):
            raise ModelError(f"{LUOPAN} is missing: the section with the configuration", where=where)
        return _validated(dict(values[LUOPAN]), where)
    architecture = find_architecture(str(values["model_type"]), where)
    known = {**architecture.defaults, **values}
    _refuse_unimplemented(known, architecture, where)
    for key in REQUIRED:
        if known.get(key) is None:
            raise ModelError(f"{key} is missing", where=where)
    ours = {key: known[key] for key in COPIED if known.get(key) is not None}
    # What equals its default is left to the default, so that a configuration survives a round trip as it was.
    if ours.get("num_key_value_heads") == ours["num_attention_heads"]:
        del ours["num_key_value_heads"]
    if ours.get("head_dim") == ours["hidden_size"] / ours["num_attention_heads"]:
        del ours["head_dim"]
    ours["tie_word_embeddings"] = known["tie_word_embeddings"]
    for option in ("attention_bias", "mlp_bias"):
        ours[option] = bool(known.get(option)) if option in architecture.reads else False
    if architecture.model_type == "qwen2":
        ours |= {"attention_bias": True, "attention_output_bias": False}
    ours["qk_norm"] = architecture.model_type in ("qwen3", "qwen3_moe")
    flags = _rope_flags(known, architecture, where)
    ours.update(_shortest_rope_layers(flags))
    if any(flags):
        ours.update(_read_rope(known, architecture, where))
    ours.update(_read_windows(known, architecture, flags, where))
    if architecture.experts:
        ours.update(_read_experts(known))
    return _validated(ours, where)


def _validated(values: dict[str, Any], where: object | None) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{key + ': ' if key else ''}{first['msg']}", where=where) from error


def _refuse_unimplemented(known: Mapping[str, Any], architecture: Architecture, where: object | None) -> None:
    for key, what in _NOT_IMPLEMENTED.items():
        if known.get(key) and not (key in _NEUTRAL_AT_ONE and known[key] == 1):
            raise ModelError(f"{key} {known[key]!r}: {what} is not implemented", where=where)
    for key in _EXPERTS:
        if known.get(key) and not architecture.experts:
            raise ModelError(f"{key} {known[key]!r}: {architecture.model_type} has no experts", where=where)
    activation = known.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"hidden_act {activation!r} is not implemented, only 'silu'", where=where)
    if other := sorted(set(known.get("layer_types") or ()) - {"full_attention", "sliding_attention"}):
        raise ModelError(f"layer_types holds {other[0]!r}, which is not implemented", where=where)


# ----------------------------------------------------------------------------------------------------- windows, experts


def _read_windows(
    known: Mapping[str, Any], architecture: Architecture, rope: list[int], where: object | None
) -> dict[str, Any]:
    """The window and the layers that it holds for, in their shortest form; nothing where it never acts."""
    window = known.get("sliding_window")
    if architecture.windows == "none" or window is None or window >= known["max_position_embeddings"]:
        return {}
    slides = _sliding_layers(known, architecture, rope, where)
    if not any(slides):
        return {}
    if all(slides):
        return {"sliding_window": window}
    every = slides.index(False) + 1
    if every > 1 and slides == [(layer + 1) % every != 0 for layer in range(len(slides))]:
        return {"sliding_window": window, "full_attention_interval": every}
    kinds = ["sliding_attention" if flag else "full_attention" for flag in slides]
    return {"sliding_window": window, "layer_types": kinds}


def _sliding_layers(
    known: Mapping[str, Any], architecture: Architecture, rope: list[int], where: object | None
) -> list[bool]:
    layers, kinds = int(known["num_hidden_layers"]), known.get("layer_types")
    used = bool(known.get("use_sliding_window", False))
    if architecture.windows == "all":
        return [used or architecture.model_type != "qwen3_moe"] * layers
    if kinds is not None and len(kinds) != layers:
        raise ModelError(f"layer_types has {len(kinds)} entries for {layers} layers", where=where)
    if not used:
        if architecture.model_type == "smollm3" and "sliding_attention" in (kinds or ()):
            # transformers takes the window out of the layer and leaves it in the mask.
            raise ModelError("layer_types names sliding layers while use_sliding_window is false", where=where)
        return [False] * layers
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    if architecture.model_type == "smollm3":
        return [not flag for flag in rope]  # only layers without rotary embeddings slide there
    return [layer >= known["max_window_layers"] for layer in range(layers)]


def _read_experts(known: Mapping[str, Any]) -> dict[str, Any]:
    """Experts, without what has no effect: keys at their default, widths of layers that there are not."""
    count = known.get("num_local_experts") or known.get("num_experts")
    if not count:
        return {}
    layers, chosen = int(known["num_hidden_layers"]), known["num_experts_per_tok"]
    read: dict[str, Any] = {"num_experts": count, "num_experts_per_tok": chosen}
    # A layer of mixtral has experts, of one width, and renormalises always; qwen3_moe says so or otherwise.
    qwen = known["model_type"] == "qwen3_moe"
    if qwen and not known["norm_topk_prob"]:
        read["norm_topk_prob"] = False
    step = int(known["decoder_sparse_step"]) if qwen else 1
    if step > 1:
        read["decoder_sparse_step"] = step
    named = set(known.get("mlp_only_layers") or ()) if qwen else set()
    if dense := [layer for layer in range(layers) if layer in named and (layer + 1) % step == 0]:
        read["mlp_only_layers"] = dense
    width = known["moe_intermediate_size"] if qwen else known["intermediate_size"]
    if step == 1 and not dense:
        read["intermediate_size"] = width
    elif width != known["intermediate_size"]:
        read["moe_intermediate_size"] = width
    if known.get("router_aux_loss_coef") and chosen < count:
        read["router_aux_loss_coef"] = known["router_aux_loss_coef"]
    if known.get("router_z_loss_coef"):  # no key of transformers, but `hf_write.py` writes it
        read["router_z_loss_coef"] = known["router_z_loss_coef"]
    return read


# --------------------------------------------------------------------------------------------------------------- rotary


def _read_rope(known: Mapping[str, Any], architecture: Architecture, where: object | None) -> dict[str, Any]:
    name = "rope_scaling" if known.get("rope_scaling") else "rope_parameters"
    given = dict(known.get(name) or {})
    if set(given) & {"full_attention", "sliding_attention"}:
        if set(given) != {"full_attention"}:
            raise ModelError(f"{name} differs between layer types, which is not implemented", where=where)
        given = dict(given["full_attention"] or {})
    partial = given.get("partial_rotary_factor", known.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise ModelError(
            f"partial_rotary_factor {partial!r}: {architecture.model_type} has no partial rotary embeddings",
            where=where,
        )
    theta = given.get("rope_theta") or known.get("rope_theta") or architecture.rope_theta
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return {"rope_theta": theta}
    if kind not in ("linear", "yarn", "llama3"):
        raise ModelError(
            f"{name}.rope_type {kind!r} is not implemented", where=where, hint="Known: default, linear, yarn, llama3."
        )
    scaling: dict[str, Any] = {"rope_type": kind, "factor": given.get("factor")}
    if kind != "linear":
        original = known.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
        scaling["original_max_position_embeddings"] = original or known["max_position_embeddings"]
    if kind == "llama3":
        scaling.update({key: given.get(key) for key in ("low_freq_factor", "high_freq_factor")})
    if kind == "yarn":
        scaling.update(_read_yarn(given))
        if scaling["factor"] is None:
            scaling["factor"] = known["max_position_embeddings"] / scaling["original_max_position_embeddings"]
    if scaling["factor"] is None:
        raise ModelError(f"{name}.factor is missing", where=where)
    return {"rope_theta": theta, "rope_scaling": scaling}


def _read_yarn(given: Mapping[str, Any]) -> dict[str, Any]:
    """The optional keys, without those that transformers does not heed in their combination."""
    read = {key: given[key] for key in ("beta_fast", "beta_slow", "truncate") if given.get(key) is not None}
    read = {key: value for key, value in read.items() if key == "truncate" or value}
    if given.get("attention_factor") is not None:
        read["attention_factor"] = given["attention_factor"]
    elif given.get("mscale") and given.get("mscale_all_dim"):
        read.update(mscale=given["mscale"], mscale_all_dim=given["mscale_all_dim"])
    return read


def _rope_flags(known: Mapping[str, Any], architecture: Architecture, where: object | None) -> list[int]:
    """For each layer, 1 where it uses rotary embeddings."""
    layers = int(known["num_hidden_layers"])
    if architecture.model_type != "smollm3":
        return [1] * layers
    interval, flags = int(known.get("no_rope_layer_interval") or 4), known.get("no_rope_layers")
    if flags is None:
        flags = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if len(flags) < layers:
        raise ModelError(f"no_rope_layers has {len(flags)} entries for {layers} layers", where=where)
    return [int(bool(flag)) for flag in flags[:layers]]


def _shortest_rope_layers(flags: list[int]) -> dict[str, Any]:
    """NoPE layers in their shortest form: nothing, an interval, or the list."""
    if all(flags):
        return {}
    first = flags.index(0) + 1
    if flags == [int((layer + 1) % first != 0) for layer in range(len(flags))]:
        return {"no_rope_layer_interval": first}
    return {"no_rope_layers": flags}


def is_own_form(folder: Path) -> bool:
    """Whether a model folder is in the form that only luopan reads."""
    text = (Path(folder) / "config.json").read_text(encoding="utf-8")
    return bool(json.loads(text).get("model_type") == LUOPAN)
