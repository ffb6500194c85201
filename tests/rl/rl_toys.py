"""A tiny policy with random weights and prompts and rewards that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.rl.rewards import Answer, Part, Rewards, each
from luopan.rl.rollouts import Prompt

VOCAB, STOP, PAD, TEMPERATURE = 48, 1, 0, 0.7


def tiny_policy(seed: int = 0) -> Decoder:
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = Decoder(config)
    model.reset_parameters(seed)
    return model


def prompts(count: int = 24) -> list[Prompt]:
    """Distinct prompts of 3 to 6 tokens; the second token says which one it is."""
    return [Prompt((2, 3 + i, *range(4, 5 + i % 4)), lambda text: None, name=f"p{i}") for i in range(count)]


def parity(answer: Answer) -> float:
    """1 for an answer that begins with an even token."""
    return float(answer.tokens[0] % 2 == 0)


def rewards_of(score: Callable[[Answer], float | None], **more: Any) -> Rewards:
    """One part, the same for all answers, whether they end or not."""
    return Rewards((Part("verifier", 1.0, each(score)),), **{"truncation": "keep", **more})
