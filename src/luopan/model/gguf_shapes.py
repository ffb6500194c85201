"""A decoder's configuration in llama.cpp's words: which of its architectures can compute it, and the keys for it.

llama.cpp reads a file's keys and ignores what an architecture of its own does not do, so whatever would be ignored is
a ModelError here that names the setting. What each architecture does was read in llama.cpp's sources (`src/models/`
of the version that llama-cpp-python 0.3.36 carries) and is tested against it (tests/tokens/test_gguf_llama.py).

Limits of llama.cpp, not of the format: windows act in none of these architectures, SmolLM3's layers without rotary
embeddings are every fourth, the weights of chosen experts always sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from luopan.errors import ModelError
from luopan.model.config import ModelConfig, RopeScaling
from luopan.model.hf_write import obstacle_anywhere

SMOLLM3_STEP = 4  # hard-wired in llama.cpp


@dataclass(frozen=True)
class GgufArchitecture:
    """One of llama.cpp's. `interleaved`: rotary pairs are neighbours (i, i+1), and not (i, i + D/2) as in our weights.

    `output_bias`, `mlp_bias`, `frequency_factors`: whether it reads such tensors.
    """

    name: str
    interleaved: bool
    qk_norm: bool = False
    experts: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    frequency_factors: bool = False


GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            GgufArchitecture("llama", True, output_bias=True, mlp_bias=True, frequency_factors=True),
            GgufArchitecture("smollm3", True),
            GgufArchitecture("qwen2", False),
            GgufArchitecture("qwen3", False, qk_norm=True),
            GgufArchitecture("qwen3moe", False, qk_norm=True, experts=True),
        )
    }
)


def gguf_architecture(config: ModelConfig, where: object | None = None) -> GgufArchitecture:
    """The architecture that computes this configuration; ModelError names the setting that none of them has."""
    if config.num_experts is not None:
        name = "qwen3moe" if config.qk_norm else "llama"  # Mixtral is a llama with experts there
    elif not all(config.rope_layers):
        name = "smollm3"
    elif config.qk_norm:
        name = "qwen3"
    elif (
        config.attention_bias
        and not config.output_bias
        and config.head_size * config.num_attention_heads == (config.hidden_size)
    ):
        name = "qwen2"
    else:
        name = "llama"
    chosen = GGUF_ARCHITECTURES[name]
    reason = (
        obstacle_anywhere(config)
        or _windows(config)
        or _experts(config)
        or _rope(config, chosen)
        or _biases(config, chosen)
    )
    if reason is not None:
        raise ModelError(
            f"GGUF cannot express {reason} (llama.cpp's {name})", where=where, hint="--to hf writes any model."
        )
    return chosen


def _windows(config: ModelConfig) -> str | None:
    return None if config.sliding_window is None else f"sliding_window {config.sliding_window}"


def _experts(config: ModelConfig) -> str | None:
    if config.num_experts is None:
        return None
    if config.norm_topk_prob is False:
        return "norm_topk_prob false"
    if not all(config.moe_layers):
        return "mlp_only_layers or decoder_sparse_step (layers without experts)"
    return "mlp_bias true beside experts" if config.mlp_bias else None


def _rope(config: ModelConfig, chosen: GgufArchitecture) -> str | None:
    layers, scaling = config.rope_layers, config.rope_scaling
    if not all(layers) and (
        chosen.name != "smollm3" or layers != tuple((n + 1) % SMOLLM3_STEP != 0 for n in range(len(layers)))
    ):
        return f"layers without rotary embeddings other than every {SMOLLM3_STEP}th of a model like SmolLM3"
    if scaling is None or scaling.rope_type == "linear":
        return None
    if scaling.rope_type == "llama3":
        return None if chosen.frequency_factors else "rope_scaling llama3"
    return _yarn(scaling)


def _yarn(scaling: RopeScaling) -> str | None:
    """llama.cpp sharpens attention by YaRN's own rule and takes its own two bounds."""
    plain = {"beta_fast": (None, 32.0), "beta_slow": (None, 1.0), "truncate": (None, True)}
    for key in ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"):
        value = getattr(scaling, key)
        if value not in plain.get(key, (None,)):
            return f"rope_scaling.{key} {value:g}" if not isinstance(value, bool) else f"rope_scaling.{key} false"
    return None


def _biases(config: ModelConfig, chosen: GgufArchitecture) -> str | None:
    if config.output_bias and not chosen.output_bias:
        return "attention_bias true with a bias on the output projection"
    return "mlp_bias true" if config.mlp_bias and not chosen.mlp_bias else None


def gguf_keys(config: ModelConfig, chosen: GgufArchitecture) -> dict[str, Any]:
    """What the file says about the shape, by keys without the architecture in front (`attention.head_count`, …)."""
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.expert_size if chosen.experts else config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_size,
        "rope.freq_base": float(config.rope_theta),
    }
    if config.num_experts is not None:
        keys |= {"expert_count": config.num_experts, "expert_used_count": config.num_experts_per_tok}
        width = "expert_feed_forward_length" if chosen.experts else "feed_forward_length"
        keys[width] = config.expert_size
    scaling = config.rope_scaling
    if scaling is not None and scaling.rope_type != "llama3":  # that one is a tensor of factors
        keys |= {"rope.scaling.type": scaling.rope_type, "rope.scaling.factor": float(scaling.factor)}
        if scaling.original_max_position_embeddings is not None:
            keys["rope.scaling.original_context_length"] = scaling.original_max_position_embeddings
    return keys
