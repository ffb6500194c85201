"""A small tokenizer that the tests of this room share."""

from __future__ import annotations

import pydoc_data.topics

import pytest
from transformers import PreTrainedTokenizerFast

from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer

TEXTS = [*pydoc_data.topics.topics.values(), "a\n\n\nb\n\n\n\nc\n\n  d\n\n\n" * 50, "你好，世界。" * 20]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """1024 tokens, with merges of line breaks among them, which is what makes borders of turns go wrong."""
    trained = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=1024))
    assert "ĊĊ" in trained.get_vocab()
    return trained
