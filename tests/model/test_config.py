"""ModelConfig: exact sizes, and every setting that would be wrong or idle is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from luopan.model.config import ModelConfig, extend_context
from luopan.model.decoder import Decoder

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 1, "attention_bias": True},
        {"num_key_value_heads": 2, "attention_bias": True, "attention_output_bias": False, "mlp_bias": True},
        {"qk_norm": True, "head_dim": 6, "mlp_bias": True},
    ],
)
def test_num_parameters_is_that_of_the_module(options: dict) -> None:
    config = ModelConfig(**TINY, **options)
    model = Decoder(config)
    assert config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    embeddings = model.embed_tokens.weight.numel() * (1 if config.tie_word_embeddings else 2)
    assert config.num_non_embedding_parameters() == config.num_parameters() - embeddings


def test_published_sizes() -> None:
    smollm3 = ModelConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        no_rope_layer_interval=4,
    )
    assert smollm3.num_parameters() == pytest.approx(3.075e9, rel=1e-3)
    smollm2 = ModelConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    assert smollm2.num_parameters() == 134_515_008


def test_flops_by_hand() -> None:
    # One layer, width 2, one head of 2, inner 3, vocabulary 5: attention 4 * 2 * 2 = 16, MLP 3 * 2 * 3 = 18,
    # three norms of 2 = 6, head 10: N = 50. 6 * 50 + 12 * 1 * 1 * 2 * 7 = 468.
    config = ModelConfig(vocab_size=5, hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1)
    assert config.flops_per_token(7) == 468
    untied = config.model_copy(update={"tie_word_embeddings": False})
    assert untied.flops_per_token(7) == 468  # an input embedding of its own is looked up, not multiplied


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hiden_size": 4}, "hiden_size"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 5}, "odd"),
        ({"sliding_window": 128}, "sliding-window attention is not implemented"),
        ({"attention_output_bias": True}, "attention_output_bias"),
        ({"no_rope_layers": [1, 0]}, "2 entries for 3 layers"),
        ({"no_rope_layers": [1, 0, 1], "no_rope_layer_interval": 2}, "give one"),
        ({"no_rope_layer_interval": 9}, "no effect"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_type"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 3}}, "does not use beta_fast"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "needs original_max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}, "no_rope_layer_interval": 1}, "no layer uses"),
    ],
)
def test_mistakes_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModelConfig(**{**TINY, **options})


def test_rope_layers() -> None:
    assert ModelConfig(**TINY).rope_layers == (True, True, True)
    assert ModelConfig(**TINY, no_rope_layer_interval=2).rope_layers == (True, False, True)
    assert ModelConfig(**TINY, no_rope_layers=[0, 1, 1]).rope_layers == (False, True, True)


def test_extend_context() -> None:
    config = ModelConfig(**TINY, max_position_embeddings=64)
    abf = extend_context(config, 256, method="abf", rope_theta=50_000.0)
    assert (abf.rope_theta, abf.max_position_embeddings, abf.rope_scaling) == (50_000.0, 256, None)
    yarn = extend_context(config, 256, method="yarn")
    assert yarn.rope_scaling is not None
    assert (yarn.rope_scaling.factor, yarn.rope_scaling.original_max_position_embeddings) == (4.0, 64)
    with pytest.raises(ValueError, match="abf"):
        extend_context(config, 256, method="abf")
    with pytest.raises(ValueError, match="do not extend"):
        extend_context(config, 64, method="linear")
    with pytest.raises(ValueError, match="scaled already"):
        extend_context(yarn, 512, method="linear")


def test_config_imports_no_torch() -> None:
    code = "import sys, luopan.model.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
