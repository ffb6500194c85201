"""Random shapes of the seven architectures, and the comparison with transformers, for the tests beside this file."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from luopan.model.attention import Layout
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "qwen3_moe", "mixtral")


def random_config(architecture: str, seed: int) -> ModelConfig:
    """A small configuration that the architecture can express, with its options drawn at random."""
    draw = random.Random(f"{architecture}-{seed}")
    heads = draw.choice([2, 4, 6])
    values: dict[str, Any] = {
        "vocab_size": draw.choice([67, 128]),
        "hidden_size": heads * draw.choice([8, 16]),
        "intermediate_size": draw.choice([40, 72]),
        "num_hidden_layers": draw.choice([2, 4, 5]),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([1, heads // 2, heads]),
        "head_dim": draw.choice([None, 12]),
        "max_position_embeddings": 128,
        "rope_theta": draw.choice([10_000.0, 500_000.0]),
        "rms_norm_eps": draw.choice([1e-6, 1e-5]),
        "tie_word_embeddings": draw.random() < 0.5,
        "rope_scaling": draw.choice(
            [
                None,
                {"rope_type": "linear", "factor": 4.0},
                {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            ]
        ),
        "initializer_range": 0.15,
        "qk_norm": architecture in ("qwen3", "qwen3_moe"),
    }
    if architecture in ("llama", "qwen3", "smollm3", "qwen3_moe"):
        values["attention_bias"] = draw.random() < 0.5
    if architecture in ("llama", "smollm3"):
        values["mlp_bias"] = draw.random() < 0.5
    if architecture == "qwen2":
        values |= {"attention_bias": True, "attention_output_bias": False}
    if architecture == "smollm3":
        layers = values["num_hidden_layers"]
        values |= draw.choice([{"no_rope_layer_interval": 2}, {"no_rope_layers": [0] + [1] * (layers - 1)}])
    if architecture != "llama":
        values |= _random_windows(draw, values["num_hidden_layers"], architecture in ("qwen2", "qwen3", "smollm3"))
    if architecture in ("qwen3_moe", "mixtral"):
        values |= _random_experts(draw, values, architecture == "qwen3_moe")
    return ModelConfig(**values)


def _random_windows(draw: random.Random, layers: int, mixed: bool) -> dict[str, Any]:
    window = {"sliding_window": draw.choice([1, 7, 20])}
    choices = [{}, window]
    if mixed:
        kinds = ["full_attention"] + ["sliding_attention"] * (layers - 1)
        choices += [window | {"full_attention_interval": 2}, window | {"layer_types": draw.sample(kinds, layers)}]
    return draw.choice(choices)


def _random_experts(draw: random.Random, values: dict[str, Any], qwen: bool) -> dict[str, Any]:
    experts: dict[str, Any] = {"num_experts": draw.choice([4, 6]), "num_experts_per_tok": draw.choice([2, 3])}
    if not qwen:
        return experts
    if draw.random() < 0.5:
        experts["norm_topk_prob"] = False
    layers = draw.choice(["all", "step", "named"])
    if layers == "step":
        experts |= {"decoder_sparse_step": 2, "moe_intermediate_size": 24}
    if layers == "named":
        experts |= {"mlp_only_layers": [draw.randrange(values["num_hidden_layers"])], "moe_intermediate_size": 20}
    return experts


def random_model(config: ModelConfig, seed: int) -> Decoder:
    """Initialised, with biases and norms moved off 0 and 1, where mistakes in them would not show."""
    model = Decoder(config)
    model.reset_parameters(seed)
    jiggle(model, seed)
    return model


def jiggle(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@torch.no_grad()
def largest_differences(ours: Decoder, theirs: nn.Module, seed: int = 0) -> tuple[float, float]:
    """Largest difference of logits, of plain rows and of packed documents. Rows are longer than any window here."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, ours.config.vocab_size, (3, 70), generator=generator)
    plain = _difference(ours(ids), theirs(ids).logits)
    document_ids = (torch.rand(3, 70, generator=generator) < 0.04).long().cumsum(1)
    layout = Layout.packed(document_ids)
    visible = _masks(ours.config, layout.mask())
    expected = theirs(ids, attention_mask=visible, position_ids=layout.position_ids).logits
    return plain, _difference(ours(ids, document_ids=document_ids), expected)


def _masks(config: ModelConfig, documents: Tensor) -> Tensor | dict[str, Tensor]:
    """documents [B, 1, T, T] -> what transformers takes: one mask, or one for each kind of layer.

    A mask that is given whole is taken as it is, so the window is drawn into it here.
    """
    if config.sliding_window is None:
        return documents
    rows = torch.arange(documents.shape[-1])
    near = documents & (rows[None, :] > rows[:, None] - config.sliding_window)
    if all(config.windows):
        return near
    return {"full_attention": documents, "sliding_attention": near}


def _difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return (one - other).abs().max().item()
