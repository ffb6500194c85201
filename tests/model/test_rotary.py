"""Rotary frequencies against transformers' own functions, and the rotation against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from luopan.model.config import ModelConfig
from luopan.model.ops import rotate
from luopan.model.rotary import RotaryTable, inverse_frequencies, rotate_first

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4096,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize("theta", [10_000.0, 2_000_000.0])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 3.0},
        YARN,
        {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
        {**YARN, "truncate": False},
        {**YARN, "attention_factor": 1.5},
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
    ],
)
def test_frequencies_equal_transformers(scaling: dict, theta: float) -> None:
    theirs = LlamaConfig(**SHAPE, rope_parameters={**scaling, "rope_theta": theta})
    expected, expected_scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, torch.device("cpu"))
    ours, scale = inverse_frequencies(ModelConfig(**SHAPE, rope_theta=theta, rope_scaling=scaling))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    assert scale == pytest.approx(expected_scale, rel=1e-9)


def test_rotation_by_hand() -> None:
    # A head of 4 turns the pairs (0, 2) and (1, 3) by position * 1 and position * theta^(-1/2).
    config = ModelConfig(**{**SHAPE, "hidden_size": 4, "num_attention_heads": 1}, rope_theta=16.0)
    cos, sin = RotaryTable(config)(torch.tensor([[3]]))
    turned = rotate(torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4), cos, sin).flatten()
    expected = [math.cos(3), math.cos(0.75), math.sin(3), math.sin(0.75)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_table_grows_and_follows_positions() -> None:
    config = ModelConfig(**SHAPE)
    table = RotaryTable(config)
    table(torch.tensor([[0, 1]]))
    cos, sin = table(torch.tensor([[5000, 3]]))  # beyond the first table, and beyond max_position_embeddings
    angles = torch.tensor([[5000.0], [3.0]]) * inverse_frequencies(config)[0]
    torch.testing.assert_close(cos[0, :, 0], angles.cos())
    torch.testing.assert_close(sin[0, :, 0], angles.sin())


def test_table_survives_inference_mode() -> None:
    table = RotaryTable(ModelConfig(**SHAPE))
    with torch.inference_mode():
        table(torch.tensor([[7]]))
    cos, sin = table(torch.tensor([[7]]))
    x = torch.ones(1, 1, 1, 32, requires_grad=True)
    rotate(x, cos, sin).sum().backward()  # a table made in inference mode could not be saved for backward
    assert x.grad is not None


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 1.0}, YARN])
def test_partial_rotation_equals_transformers(scaling: dict) -> None:
    rope = {**scaling, "rope_theta": 10_000.0, "partial_rotary_factor": 0.25}
    theirs = LlamaConfig(**SHAPE, rope_parameters=rope)
    frequencies, scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, torch.device("cpu"))
    config = ModelConfig(**SHAPE, partial_rotary_factor=0.25, rope_scaling=scaling)
    assert config.rotary_size == 8
    x, positions = torch.randn(2, 5, 2, 32), torch.tensor([[0, 1, 2, 3, 4], [9, 3, 700, 2, 1]])
    turned = rotate_first(x, *RotaryTable(config)(positions))
    angles = positions[..., None].float() * frequencies.repeat(2)
    expected, _ = apply_rotary_pos_emb(x, x, angles.cos() * scale, angles.sin() * scale, unsqueeze_dim=2)
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(turned[..., 8:], x[..., 8:])
