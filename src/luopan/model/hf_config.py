"""Hugging Face `config.json` to `ModelConfig` and back, for Llama, Mistral, Qwen2, Qwen3 and SmolLM3.

Reading: whatever changes the logits and is not implemented here (a sliding window in use, experts, rope types we do
not know, soft-capping, quantised weights …) is a `ModelError` that names the key; bookkeeping keys are ignored, as
transformers ignores them. Keys that a file leaves out take the default of their transformers class.
Writing: the keys of transformers 5 (`rope_parameters`, `dtype`) and of 4.5x (`rope_theta`, `rope_scaling`,
`torch_dtype`) side by side; each version reads its own. Limit: 4.5x takes YaRN's factor from
max_position_embeddings / original_max_position_embeddings, whatever `factor` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from luopan.errors import ModelError
from luopan.model.config import ModelConfig


@dataclass(frozen=True)
class Architecture:
    """One family of transformers: its names, and what a configuration file may leave out."""

    model_type: str
    class_name: str
    defaults: Mapping[str, Any]
    rope_theta: float = 10_000.0
    reads: frozenset[str] = field(default_factory=frozenset)  # options that this class looks at; others it ignores


def _architecture(
    model_type: str, class_name: str, reads: str = "", rope_theta: float = 10_000.0, **defaults: Any
) -> Architecture:
    return Architecture(model_type, class_name, MappingProxyType(defaults), rope_theta, frozenset(reads.split()))


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        entry.model_type: entry
        for entry in (
            _architecture(
                "llama",
                "LlamaForCausalLM",
                reads="attention_bias mlp_bias",
                max_position_embeddings=2048,
                tie_word_embeddings=False,
            ),
            _architecture(
                "mistral",
                "MistralForCausalLM",
                num_key_value_heads=8,
                max_position_embeddings=131072,
                tie_word_embeddings=False,
                sliding_window=4096,
            ),
            _architecture(
                "qwen2",
                "Qwen2ForCausalLM",
                num_key_value_heads=32,
                max_position_embeddings=32768,
                tie_word_embeddings=False,
                sliding_window=4096,
            ),
            _architecture(
                "qwen3",
                "Qwen3ForCausalLM",
                reads="attention_bias",
                num_key_value_heads=32,
                head_dim=128,
                max_position_embeddings=32768,
                tie_word_embeddings=False,
                sliding_window=4096,
            ),
            _architecture(
                "smollm3",
                "SmolLM3ForCausalLM",
                reads="attention_bias mlp_bias",
                rope_theta=2_000_000.0,
                num_key_value_heads=4,
                max_position_embeddings=32768,
                tie_word_embeddings=True,
                no_rope_layer_interval=4,
            ),
        )
    }
)

_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_COPIED = (
    *_REQUIRED,
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
)

# Keys that ask for something else than a dense decoder with plain attention, whatever the family.
_NOT_IMPLEMENTED: Mapping[str, str] = MappingProxyType(
    {
        "num_experts": "mixture of experts",
        "num_local_experts": "mixture of experts",
        "n_routed_experts": "mixture of experts",
        "num_experts_per_tok": "mixture of experts",
        "attention_sinks": "attention sinks",
        "attn_sinks": "attention sinks",
        "use_attention_sinks": "attention sinks",
        "sink_tokens": "attention sinks",
        "attn_logit_softcapping": "soft-capped logits",
        "final_logit_softcapping": "soft-capped logits",
        "attention_dropout": "dropout",
        "quantization_config": "quantised weights",
        "attention_chunk_size": "chunked attention",
        "logit_scale": "scaled logits",
        "embedding_multiplier": "scaled embeddings",
        "residual_multiplier": "scaled residuals",
    }
)


def find_architecture(name: str, where: object | None = None) -> Architecture:
    """By `model_type` or by class name; ModelError with what there is."""
    for entry in ARCHITECTURES.values():
        if name in (entry.model_type, entry.class_name):
            return entry
    raise ModelError(
        f"model_type {name!r} is not supported", where=where, hint=f"Supported: {', '.join(sorted(ARCHITECTURES))}."
    )


# ----------------------------------------------------------------------------------------------------------- reading


def from_hf_config(values: Mapping[str, Any], where: object | None = None) -> ModelConfig:
    """The content of a `config.json`, as a ModelConfig. `where` (the file) is for the error messages."""
    if "model_type" not in values:
        raise ModelError("model_type is missing", where=where, hint="Is this the config.json of a language model?")
    architecture = find_architecture(str(values["model_type"]), where)
    known = {**architecture.defaults, **values}
    _refuse_unimplemented(known, architecture, where)
    for key in _REQUIRED:
        if known.get(key) is None:
            raise ModelError(f"{key} is missing", where=where)
    ours = {key: known[key] for key in _COPIED if known.get(key) is not None}
    # What equals its default is left to the default, so that a configuration survives a round trip as it was.
    if ours.get("num_key_value_heads") == ours["num_attention_heads"]:
        del ours["num_key_value_heads"]
    if ours.get("head_dim") == ours["hidden_size"] / ours["num_attention_heads"]:
        del ours["head_dim"]
    ours["tie_word_embeddings"] = known["tie_word_embeddings"]
    ours.update(_read_rope(known, architecture, where))
    for option in ("attention_bias", "mlp_bias"):
        ours[option] = bool(known.get(option)) if option in architecture.reads else False
    if architecture.model_type == "qwen2":
        ours |= {"attention_bias": True, "attention_output_bias": False}
    ours["qk_norm"] = architecture.model_type == "qwen3"
    if architecture.model_type == "smollm3":
        ours.update(_read_rope_layers(known, where))
    try:
        return ModelConfig.model_validate(ours)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{key + ': ' if key else ''}{first['msg']}", where=where) from error


def _refuse_unimplemented(known: Mapping[str, Any], architecture: Architecture, where: object | None) -> None:
    for key, what in _NOT_IMPLEMENTED.items():
        if known.get(key) and not (
            key in ("logit_scale", "embedding_multiplier", "residual_multiplier") and known[key] == 1
        ):
            raise ModelError(f"{key} {known[key]!r}: {what} is not implemented", where=where)
    activation = known.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"hidden_act {activation!r} is not implemented, only 'silu'", where=where)
    if _sliding_window_in_use(known, architecture):
        raise ModelError(
            f"sliding_window {known['sliding_window']}: sliding-window attention is not implemented",
            where=where,
            hint="It acts because it is shorter than max_position_embeddings; lower that to its length to go without.",
        )
    if other := sorted(set(known.get("layer_types") or ()) - {"full_attention", "sliding_attention"}):
        raise ModelError(f"layer_types holds {other[0]!r}, which is not implemented", where=where)


def _sliding_window_in_use(known: Mapping[str, Any], architecture: Architecture) -> bool:
    window = known.get("sliding_window")
    if window is None or window >= known["max_position_embeddings"] or architecture.model_type == "llama":
        return False
    if architecture.model_type == "mistral":
        return True
    if not known.get("use_sliding_window", False):
        return False
    if known.get("layer_types") is not None:
        return "sliding_attention" in known["layer_types"]
    if architecture.model_type == "smollm3":
        # Only layers without rotary embeddings slide there.
        return any(not flag for flag in known.get("no_rope_layers") or [0])
    return known.get("max_window_layers", 28) < known.get("num_hidden_layers", 0)


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
            f"partial_rotary_factor {partial!r}: partial rotary embeddings are not implemented", where=where
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


def _read_rope_layers(known: Mapping[str, Any], where: object | None) -> dict[str, Any]:
    """NoPE layers in their shortest form: nothing, an interval, or the list."""
    layers, interval = int(known["num_hidden_layers"]), int(known.get("no_rope_layer_interval") or 4)
    flags = known.get("no_rope_layers")
    if flags is None:
        flags = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if len(flags) < layers:
        raise ModelError(f"no_rope_layers has {len(flags)} entries for {layers} layers", where=where)
    flags = [int(bool(flag)) for flag in flags[:layers]]
    if all(flags):
        return {}
    first = flags.index(0) + 1
    if flags == [int((layer + 1) % first != 0) for layer in range(layers)]:
        return {"no_rope_layer_interval": first}
    return {"no_rope_layers": flags}


# ----------------------------------------------------------------------------------------------------------- writing


def choose_architecture(config: ModelConfig) -> Architecture:
    """The first family that can express the configuration; ModelError says what keeps each of them from it."""
    if not all(config.rope_layers):
        names = ["smollm3"]
    elif config.qk_norm:
        names = ["qwen3"]
    elif config.attention_bias and not config.output_bias:
        names = ["qwen2"]
    else:
        names = ["llama", "mistral", "smollm3"]
    obstacles = {name: _obstacle(config, name) for name in names}
    for name, obstacle in obstacles.items():
        if obstacle is None:
            return ARCHITECTURES[name]
    reasons = "; ".join(f"{name} cannot: {obstacle}" for name, obstacle in obstacles.items())
    raise ModelError(f"no Hugging Face architecture expresses this configuration ({reasons})")


def _obstacle(config: ModelConfig, model_type: str) -> str | None:
    """The option that an architecture cannot express, or None."""
    if model_type != "smollm3" and not all(config.rope_layers):
        return "no_rope_layers (NoPE layers)"
    if config.qk_norm != (model_type == "qwen3"):
        return f"qk_norm {str(config.qk_norm).lower()}"
    if config.mlp_bias and model_type not in ("llama", "smollm3"):
        return "mlp_bias true"
    if model_type == "qwen2":
        if not config.attention_bias or config.output_bias:
            return "biases other than on q, k and v (attention_bias true, attention_output_bias false)"
    elif config.attention_bias != config.output_bias:
        return "attention_output_bias unlike attention_bias"
    if model_type == "mistral" and config.attention_bias:
        return "attention_bias true"
    if model_type == "llama" and config.hidden_size % config.num_attention_heads:
        return "hidden_size that is not a multiple of num_attention_heads"
    return None


def to_hf_config(config: ModelConfig, architecture: str | None = None) -> dict[str, Any]:
    """The content of a `config.json` (token ids null: `hf.save` fills them in).

    `architecture` is a model_type or class name; ModelError names the option that it cannot express.
    """
    if architecture is None:
        chosen = choose_architecture(config)
    else:
        chosen = find_architecture(architecture)
        if obstacle := _obstacle(config, chosen.model_type):
            raise ModelError(f"{chosen.model_type} cannot express {obstacle}", hint="Leave the architecture out.")
    written: dict[str, Any] = {
        "architectures": [chosen.class_name],
        "model_type": chosen.model_type,
        **{key: getattr(config, key) for key in _COPIED},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        # Null on purpose: the classes' own defaults (2, 128001 …) are another tokenizer's.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **_write_rope(config),
    }
    if "attention_bias" in chosen.reads:
        written["attention_bias"] = config.attention_bias
    if "mlp_bias" in chosen.reads:
        written["mlp_bias"] = config.mlp_bias
    if chosen.model_type != "llama":
        written["sliding_window"] = None
    if chosen.model_type in ("qwen2", "qwen3", "smollm3"):
        written["use_sliding_window"] = False
    if chosen.model_type == "smollm3":
        written["no_rope_layers"] = [int(flag) for flag in config.rope_layers]
        written["no_rope_layer_interval"] = config.no_rope_layer_interval or config.num_hidden_layers + 1
    return written


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    theta, scaling = config.rope_theta, config.rope_scaling
    if scaling is None:
        parameters: dict[str, Any] = {"rope_type": "default"}
        legacy = None
    else:
        parameters = scaling.model_dump(exclude_none=True)
        legacy = dict(parameters)
    return {"rope_parameters": {**parameters, "rope_theta": theta}, "rope_theta": theta, "rope_scaling": legacy}
