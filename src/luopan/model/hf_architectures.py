"""The families of transformers that a decoder is read from and written as: names, defaults, options.

`hf_read.py` and `hf_write.py` translate; a new family starts here. `LUOPAN` is none of them: the name of our own form
of a folder, for what no family can express (`hf_write.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from luopan.errors import ModelError

LUOPAN = "luopan"

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
COPIED = (
    *REQUIRED,
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
)


@dataclass(frozen=True)
class Architecture:
    """One family of transformers: its names, and what a configuration file may leave out.

    `windows`: "none" at all, "all" layers or none, or "layers" of its choice.
    """

    model_type: str
    class_name: str
    defaults: Mapping[str, Any]
    rope_theta: float = 10_000.0
    windows: str = "none"
    experts: bool = False
    reads: frozenset[str] = field(default_factory=frozenset)  # options that this class looks at; others it ignores


def _architecture(
    model_type: str,
    class_name: str,
    reads: str = "",
    rope_theta: float = 10_000.0,
    windows: str = "none",
    experts: bool = False,
    **defaults: Any,
) -> Architecture:
    return Architecture(
        model_type, class_name, MappingProxyType(defaults), rope_theta, windows, experts, frozenset(reads.split())
    )


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
                windows="all",
                num_key_value_heads=8,
                max_position_embeddings=131072,
                tie_word_embeddings=False,
                sliding_window=4096,
            ),
            _architecture(
                "qwen2",
                "Qwen2ForCausalLM",
                windows="layers",
                num_key_value_heads=32,
                max_position_embeddings=32768,
                tie_word_embeddings=False,
                sliding_window=4096,
                max_window_layers=28,
            ),
            _architecture(
                "qwen3",
                "Qwen3ForCausalLM",
                reads="attention_bias",
                windows="layers",
                num_key_value_heads=32,
                head_dim=128,
                max_position_embeddings=32768,
                tie_word_embeddings=False,
                sliding_window=4096,
                max_window_layers=28,
            ),
            _architecture(
                "smollm3",
                "SmolLM3ForCausalLM",
                reads="attention_bias mlp_bias",
                rope_theta=2_000_000.0,
                windows="layers",
                num_key_value_heads=4,
                max_position_embeddings=32768,
                tie_word_embeddings=True,
                no_rope_layer_interval=4,
            ),
            _architecture(
                "qwen3_moe",
                "Qwen3MoeForCausalLM",
                reads="attention_bias",
                windows="all",
                experts=True,
                num_key_value_heads=4,
                max_position_embeddings=32768,
                tie_word_embeddings=False,
                sliding_window=4096,
                num_experts=128,
                num_experts_per_tok=8,
                moe_intermediate_size=768,
                norm_topk_prob=False,
                decoder_sparse_step=1,
                router_aux_loss_coef=0.001,
            ),
            _architecture(
                "mixtral",
                "MixtralForCausalLM",
                rope_theta=1_000_000.0,
                windows="all",
                experts=True,
                num_key_value_heads=8,
                max_position_embeddings=131072,
                rms_norm_eps=1e-5,
                tie_word_embeddings=False,
                num_local_experts=8,
                num_experts_per_tok=2,
                router_aux_loss_coef=0.001,
            ),
        )
    }
)


def find_architecture(name: str, where: object | None = None) -> Architecture:
    """By `model_type` or by class name; ModelError with what there is."""
    for entry in ARCHITECTURES.values():
        if name in (entry.model_type, entry.class_name):
            return entry
    raise ModelError(
        f"model_type {name!r} is not supported",
        where=where,
        hint=f"Supported: {', '.join(sorted(ARCHITECTURES))}; or {LUOPAN}.",
    )
