"""Named shapes: published models to train from scratch or to compare with, and small ones of our own.

A preset is a set of values for `ModelConfig`, where `preset: NAME` takes it and the keys beside it change it. Sizes
are computed from the values and tested against what was published; where a source rounds, the rounding is tested.
No torch here. Limits: a preset is a shape, not weights, a tokenizer or a schedule. Values that differ between the
stages of a training (SmolLM3's rope_theta and context) are those of its first stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luopan.model.config import ModelConfig


@dataclass(frozen=True)
class Preset:
    """`values` for a `ModelConfig`; `published` parameters as the source states them (None: our own shape)."""

    values: Mapping[str, Any]
    published: str | None
    source: str


def _preset(published: str | None, source: str, **values: Any) -> Preset:
    return Preset(MappingProxyType(values), published, source)


def _smollm2(published: str, source: str, **values: Any) -> Preset:
    shared = {"vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100_000.0, "rms_norm_eps": 1e-5}
    return _preset(published, source, **values, **shared)


def _minillm(published: str, **values: Any) -> Preset:
    # 8 heads, 2 key/value heads, and an inner width of 8/3 of the hidden one, rounded up to a multiple of 64.
    shared = {"vocab_size": 6400, "num_attention_heads": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
    context = {"max_position_embeddings": 32768, "rope_theta": 1_000_000.0}
    source = "github.com/cklxx/mini-llm, model/model_minillm.py (the architecture of github.com/jingyaogong/minimind)"
    return _preset(published, source, **values, **shared, **context)


def _nano(hidden: int, layers: int, heads: int, vocab: int, inner: int) -> Preset:
    return _preset(
        None,
        "ours: the quickstart's shape (Qwen3-like, an even half of the heads for keys and values), scaled",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=512,
        qk_norm=True,
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "smollm2-135m": _smollm2(
            "134,515,008",
            "huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json",
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            initializer_range=1 / 24,
        ),
        "smollm2-360m": _smollm2(
            "361,821,120",
            "huggingface.co/HuggingFaceTB/SmolLM2-360M, config.json",
            hidden_size=960,
            intermediate_size=2560,
            num_hidden_layers=32,
            num_attention_heads=15,
            num_key_value_heads=5,
        ),
        "smollm3-3b": _preset(
            "3,075,098,624",
            "huggingface.co/HuggingFaceTB/SmolLM3-3B-Base, config.json; rope_theta and context of its stage 1 "
            "(huggingface.co/datasets/HuggingFaceTB/smollm3-configs)",
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=11008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            rope_theta=50_000.0,
            no_rope_layer_interval=4,
        ),
        "qwen3-0.6b": _preset(
            "596,049,920",
            "huggingface.co/Qwen/Qwen3-0.6B-Base, config.json; parameters counted by transformers 5.23",
            vocab_size=151936,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=32768,
            rope_theta=1_000_000.0,
            qk_norm=True,
        ),
        "llama3.2-1b": _preset(
            "1,235,814,400",
            "huggingface.co/meta-llama/Llama-3.2-1B, config.json and model card (1.23B)",
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131072,
            rope_theta=500_000.0,
            rope_scaling=MappingProxyType(
                {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "original_max_position_embeddings": 8192,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                }
            ),
            rms_norm_eps=1e-5,
        ),
        "minillm-26m": _minillm("26M", hidden_size=512, intermediate_size=1408, num_hidden_layers=8),
        "minillm-104m": _minillm("104M", hidden_size=768, intermediate_size=2048, num_hidden_layers=16),
        "minillm-moe-145m": _minillm(
            "145M",
            hidden_size=640,
            intermediate_size=1728,
            num_hidden_layers=8,
            num_experts=4,
            num_experts_per_tok=2,
            shared_expert_intermediate_size=1728,
            # Their alpha is 0.1 on a loss that is 1 where the load is even; ours is then 2, the experts per token.
            router_aux_loss_coef=0.05,
        ),
        "nano-1m": _nano(hidden=128, layers=4, heads=4, vocab=2048, inner=344),
        "nano-5m": _nano(hidden=256, layers=6, heads=8, vocab=4096, inner=688),
        "nano-15m": _nano(hidden=384, layers=8, heads=6, vocab=6144, inner=1024),
        "nano-30m": _nano(hidden=512, layers=9, heads=8, vocab=8192, inner=1376),
    }
)


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"preset": name, **changes}` -> all values, changes on top; ValueError for a name that there is not.

    An optional key that is changed to null is left out, as everywhere.
    """
    changes = {key: value for key, value in values.items() if key != "preset"}
    name = values["preset"]
    if name is None:
        return changes
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} does not exist; there are {', '.join(PRESETS)}")
    filled = {key: dict(value) if isinstance(value, Mapping) else value for key, value in PRESETS[name].values.items()}
    return filled | changes


def preset(name: str, **changes: Any) -> ModelConfig:
    """The configuration of a preset, with `changes` to it."""
    from luopan.model.config import ModelConfig  # config.py imports this file

    return ModelConfig.model_validate({"preset": name, **changes})
