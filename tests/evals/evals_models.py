"""A tiny tokenizer and decoders for the evaluation tests."""

from __future__ import annotations

from functools import cache

import torch

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer

TEXT = (
    "The code of the red box is 4 7 1. What is the code of the red box? In the yard there was a cart and a lamp. "
    "Naïve café, 北京 and 👍 are here too. The river walks under the morning light, and nobody saw the stone. "
    "After that came another long evening by the window."
)


@cache
def tiny_tokenizer():
    """Byte-level, 384 tokens."""
    return train_tokenizer([TEXT] * 20, TokenizerConfig(vocab_size=384, min_frequency=2))


def tiny_model(context: int = 64, seed: int = 0, scale: float = 0.2) -> Decoder:
    """Two layers with weights large enough for predictions that differ from place to place."""
    config = ModelConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=scale,
    )
    model = Decoder(config)
    model.reset_parameters(seed)
    return model.eval()


def uniform_model(context: int = 64) -> Decoder:
    """Finds every token equally likely."""
    model = tiny_model(context)
    with torch.no_grad():
        model.norm.weight.zero_()
    return model
