"""`ModelConfig` to a Hugging Face `config.json`: which family can express it, and its keys.

Written are the keys of transformers 5 (`rope_parameters`, `dtype`) and of 4.5x (`rope_theta`, `rope_scaling`,
`torch_dtype`) side by side; each version reads its own. An option that a family cannot express is a `ModelError` that
names it. Where no family can, our own form keeps a model between stages: `model_type: luopan`, with the configuration
as it is. Only luopan reads that.

Not part of any family, and left out without a word because they change nothing in a trained model: `initializer`,
and the running load of the balance loss. Limit: 4.5x takes YaRN's factor from
max_position_embeddings / original_max_position_embeddings, whatever `factor` says.
"""

from __future__ import annotations

from typing import Any

from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.hf_architectures import ARCHITECTURES, COPIED, LUOPAN, Architecture, find_architecture


def choose_architecture(config: ModelConfig) -> Architecture:
    """The first family that can express the configuration; ModelError says what keeps each of them from it."""
    if config.num_experts is not None:
        names = ["qwen3_moe"] if config.qk_norm else ["mixtral"]
    elif not all(config.rope_layers):
        names = ["smollm3"]
    elif config.qk_norm:
        names = ["qwen3"]
    elif config.attention_bias and not config.output_bias:
        names = ["qwen2"]
    else:
        names = ["llama", "mistral", "smollm3"]
    obstacles = {name: obstacle(config, name) for name in names}
    for name, reason in obstacles.items():
        if reason is None:
            return ARCHITECTURES[name]
    reasons = "; ".join(f"{name} cannot: {reason}" for name, reason in obstacles.items())
    raise ModelError(
        f"no Hugging Face architecture expresses this configuration ({reasons})",
        hint="--architecture luopan writes it in our own form, which only luopan reads.",
    )


def obstacle(config: ModelConfig, model_type: str) -> str | None:
    """The option that a family cannot express, or None."""
    return (
        obstacle_anywhere(config)
        or _obstacle_of_experts(config, model_type)
        or _obstacle_of_windows(config, model_type)
        or _obstacle_of_shape(config, model_type)
    )


def obstacle_anywhere(config: ModelConfig) -> str | None:
    """What none of the families has, nor llama.cpp; None where there is nothing of the kind."""
    if config.attention_sinks:
        return "attention_sinks true"
    if config.partial_rotary_factor != 1:
        return f"partial_rotary_factor {config.partial_rotary_factor:g}"
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "shared_expert_intermediate_size"):
        if getattr(config, key) is not None:
            return f"{key} {getattr(config, key):g}"
    if config.router_bias_update_rate:
        return f"router_bias_update_rate {config.router_bias_update_rate:g} (the bias that takes part in the choice)"
    return None


def _obstacle_of_experts(config: ModelConfig, model_type: str) -> str | None:
    if (config.num_experts is not None) != ARCHITECTURES[model_type].experts:
        return "a model without experts" if config.num_experts is None else f"num_experts {config.num_experts}"
    if model_type != "mixtral":
        return None
    if config.norm_topk_prob is False:
        return "norm_topk_prob false"
    if not all(config.moe_layers):
        return "mlp_only_layers or decoder_sparse_step (layers without experts)"
    return None


def _obstacle_of_windows(config: ModelConfig, model_type: str) -> str | None:
    windows = ARCHITECTURES[model_type].windows
    if config.sliding_window is None or windows == "layers":
        return None
    if windows == "none":
        return f"sliding_window {config.sliding_window}"
    return None if all(config.windows) else "layer_types or full_attention_interval (layers without the window)"


def _obstacle_of_shape(config: ModelConfig, model_type: str) -> str | None:
    if model_type != "smollm3" and not all(config.rope_layers):
        return "no_rope_layers (NoPE layers)"
    if config.qk_norm != (model_type in ("qwen3", "qwen3_moe")):
        return f"qk_norm {str(config.qk_norm).lower()}"
    if config.mlp_bias and "mlp_bias" not in ARCHITECTURES[model_type].reads:
        return "mlp_bias true"
    if model_type == "qwen2":
        if not config.attention_bias or config.output_bias:
            return "biases other than on q, k and v (attention_bias true, attention_output_bias false)"
    elif config.attention_bias != config.output_bias:
        return "attention_output_bias unlike attention_bias"
    elif config.attention_bias and "attention_bias" not in ARCHITECTURES[model_type].reads:
        return "attention_bias true"
    if model_type == "llama" and config.hidden_size % config.num_attention_heads:
        return "hidden_size that is not a multiple of num_attention_heads"
    return None


# ----------------------------------------------------------------------------------------------------------------- keys


def to_hf_config(config: ModelConfig, architecture: str | None = None) -> dict[str, Any]:
    """The content of a `config.json` (token ids null: `hf.save` fills them in).

    `architecture` is a model_type or class name; None chooses; "luopan" is our own form; "auto" is our own form only
    where no family can express the configuration. ModelError names the option that keeps the family from it.
    """
    if architecture == "auto":
        architecture = auto_architecture(config)
    if architecture == LUOPAN:
        own = config.model_dump(mode="json")  # whole: a default may change one day
        # Two keys that inference looks for in any config.json.
        shared = {"vocab_size": config.vocab_size, "max_position_embeddings": config.max_position_embeddings}
        return {"model_type": LUOPAN, **_no_tokens(), **shared, LUOPAN: own}
    if architecture is None:
        chosen = choose_architecture(config)
    else:
        chosen = find_architecture(architecture)
        if reason := obstacle(config, chosen.model_type):
            raise ModelError(f"{chosen.model_type} cannot express {reason}", hint="Leave the architecture out.")
    written: dict[str, Any] = {
        "architectures": [chosen.class_name],
        "model_type": chosen.model_type,
        **{key: getattr(config, key) for key in COPIED},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        **_no_tokens(),
        **_write_rope(config),
        **_write_windows(config, chosen),
    }
    for option in ("attention_bias", "mlp_bias"):
        if option in chosen.reads:
            written[option] = getattr(config, option)
    if chosen.model_type == "smollm3":
        written["no_rope_layers"] = [int(flag) for flag in config.rope_layers]
        written["no_rope_layer_interval"] = config.no_rope_layer_interval or config.num_hidden_layers + 1
    return {**written, **_write_experts(config, chosen)}


def auto_architecture(config: ModelConfig) -> str:
    """The model_type of the family that can express the configuration, and "luopan" where there is none."""
    try:
        return choose_architecture(config).model_type
    except ModelError:
        return LUOPAN


def _no_tokens() -> dict[str, Any]:
    # Null on purpose: the classes' own defaults (2, 128001 …) are another tokenizer's.
    return dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    theta, scaling = config.rope_theta, config.rope_scaling
    if scaling is None:
        parameters: dict[str, Any] = {"rope_type": "default"}
        legacy = None
    else:
        parameters = scaling.model_dump(exclude_none=True)
        legacy = dict(parameters)
    return {"rope_parameters": {**parameters, "rope_theta": theta}, "rope_theta": theta, "rope_scaling": legacy}


def _write_windows(config: ModelConfig, chosen: Architecture) -> dict[str, Any]:
    if chosen.windows == "none":
        return {}
    window = config.sliding_window
    written: dict[str, Any] = {"sliding_window": window}
    if chosen.model_type in ("mistral", "mixtral"):
        return written
    written["use_sliding_window"] = window is not None
    if window is None or chosen.windows != "layers":
        return written
    slides = [one is not None for one in config.windows]
    written["layer_types"] = ["sliding_attention" if flag else "full_attention" for flag in slides]
    first = slides.index(True)
    if all(slides[first:]):  # what transformers before 4.53 reads in place of layer_types
        written["max_window_layers"] = first
    return written


def _write_experts(config: ModelConfig, chosen: Architecture) -> dict[str, Any]:
    if not chosen.experts:
        return {}
    count = "num_local_experts" if chosen.model_type == "mixtral" else "num_experts"
    written: dict[str, Any] = {
        count: config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "router_aux_loss_coef": config.router_aux_loss_coef or 0.0,
        "output_router_logits": False,
    }
    if config.router_z_loss_coef:
        written["router_z_loss_coef"] = config.router_z_loss_coef  # ours alone; transformers carries it along
    if chosen.model_type == "mixtral":
        return written
    return {
        **written,
        "moe_intermediate_size": config.expert_size,
        "norm_topk_prob": config.norm_topk_prob is not False,
        "decoder_sparse_step": config.decoder_sparse_step or 1,
        "mlp_only_layers": list(config.mlp_only_layers or ()),
    }
