"""The tiny tokenizer and model, once."""

from __future__ import annotations

import pytest
from stage_toys import tiny_chat, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.stages.common import Chat


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def chat() -> Chat:
    return tiny_chat()
