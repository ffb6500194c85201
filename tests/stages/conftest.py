"""The tiny tokenizer and model, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from stage_toys import tiny_chat, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.stages.common import Chat


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def chat() -> Chat:
    return tiny_chat()
