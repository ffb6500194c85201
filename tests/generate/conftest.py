"""Tiny models and a tokenizer, made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from generate_toys import ScriptedModel, tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.generate.engine import Engine
from luopan.generate.native import build
from luopan.model.decoder import Decoder


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the compiled pass, and by torch's operations."""
    if request.param == "torch":
        monkeypatch.setattr(Engine, "native_obstacle", lambda engine: "left out by the test")
    elif (why := build.reason()) is not None:
        pytest.skip(f"the compiled pass is not to be had: {why}")
    return str(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model() -> Decoder:
    """Random weights, large enough that the next token is neither certain nor uniform."""
    return tiny_model()


@pytest.fixture(scope="session")
def scripted() -> Callable[..., ScriptedModel]:
    return ScriptedModel
