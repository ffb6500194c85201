"""A server with a model of random weights, one that says what it is told, and one without a chat template."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

import openai
import pytest
from serve_kit import Running, ScriptedModel, running, served, tiny_model
from transformers import PreTrainedTokenizerFast

from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer

WORDS = "你好 世界 naïve café 🙂🙃 привет 東京都 zażółć 👩‍👩‍👧 the cat sat on a mat and then it ran 12 34 away"
WORDS += " brown fox jumps over STOP name city weather"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    draw = random.Random(0)
    words = WORDS.split()
    texts = [" ".join(draw.choice(words) for _ in range(30)) for _ in range(200)]
    return train_tokenizer(texts, TokenizerConfig(vocab_size=384))


@pytest.fixture(scope="session")
def scripted(tokenizer: PreTrainedTokenizerFast) -> ScriptedModel:
    return ScriptedModel(tokenizer)


@pytest.fixture(scope="session")
def server(tokenizer: PreTrainedTokenizerFast, scripted: ScriptedModel) -> Iterator[Running]:
    """`noise`: a real decoder; `actor`: the scripted one; `base`: a decoder whose tokenizer has no template."""
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    noise = tiny_model(len(tokenizer))
    models = [
        served(noise, tokenizer, "noise", description="random weights"),
        served(scripted, tokenizer, "actor"),
        served(noise, bare, "base"),
    ]
    with running(models) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client
    assert server.idle("noise") and server.idle("actor") and server.idle("base")


@pytest.fixture
def actor(scripted: ScriptedModel) -> Iterator[ScriptedModel]:
    yield scripted
    scripted.step_seconds, scripted.fails = 0.0, None
