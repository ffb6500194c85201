"""Tiny models of every architecture that llama.cpp has, and nasty strings, for the tests of GGUF."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.tokenizer import save_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip
# name -> (settings, llama.cpp's architecture)
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({}, "llama"),
    "llama untied": ({"tie_word_embeddings": False, "rope_theta": 5e4, "rms_norm_eps": 1e-5}, "llama"),
    "llama wide heads": ({"head_dim": 32}, "llama"),
    "llama biases": ({"attention_bias": True, "mlp_bias": True}, "llama"),
    "llama odd rows": ({"hidden_size": 72, "intermediate_size": 104, "num_attention_heads": 6}, "llama"),
    "qwen2": ({"attention_bias": True, "attention_output_bias": False}, "qwen2"),
    "qwen3": ({"qk_norm": True}, "qwen3"),
    "qwen3_moe": ({"qk_norm": True, **MOE}, "qwen3moe"),
    "qwen3_moe narrow": ({"qk_norm": True, **MOE, "intermediate_size": 32}, "qwen3moe"),
    "mixtral": (MOE, "llama"),
    "smollm3": ({"no_rope_layer_interval": 4}, "smollm3"),
    "linear": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "llama"),
    "yarn": ({"qk_norm": True, "rope_scaling": YARN}, "qwen3"),
    "llama3": ({"rope_scaling": LLAMA3}, "llama"),
}  # fmt: skip


def toy(name: str, vocab_size: int, **more: Any) -> Decoder:
    """A model of `MODELS` with random weights, norms and biases included."""
    made = Decoder(ModelConfig.model_validate({**SHAPE, "vocab_size": vocab_size, **MODELS[name][0], **more}))
    made.reset_parameters(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in made.parameters():
            if value.ndim == 1:
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return made.eval()


def save(model: Decoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """The model folder that an export reads."""
    hf.save(model, folder, architecture="auto", eos_token_id=tokenizer.eos_token_id)
    save_tokenizer(tokenizer, folder)
    return folder


SPACES = [" ", "  ", "   ", "\n", "\n\n", "\n  ", " \n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x0b", "\x85"]
WORDS = [
    "é", "e\u0301", "中文", "，", "ア", "한국어", "9", "12", "345678", "²", "٣", "Ⅷ", "½", "a", "B", "'s", "'LL", "'re",
    "don't", ".", "...", "!", "/", "word", "x_y", "#", "\x00", "\u200b", "\ufeff", "👩\u200d👩", "🧿", "ß", "ﬁ",
    "system", "user", "assistant", "tool", "def f(x):", "return", "Ω", "я", "ا", "\U000f0000",
]  # fmt: skip
CONTROL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|endoftext|>"]


def nasty(number: int, seed: int = 0, control: bool = True) -> list[str]:
    """Strings of everything that tokenizers have been caught cutting differently."""
    rng = random.Random(seed)
    pieces = [*SPACES, *SPACES, *WORDS, *(CONTROL if control else [])]
    made = ["".join(rng.choice(pieces) for _ in range(rng.randrange(1, 16))) for _ in range(number)]
    return [*made, "<think>\n\n</think>\n\n", "assistant\n\n\nx", "<|im_start|>assistant\n  x", "a\n\n\n", "\n"]
