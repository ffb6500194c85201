"""Our own server as a teacher: it says what the same model says in memory, and whose tokens it speaks of."""

from __future__ import annotations

import random

import pytest
import torch
from serve_kit import Running
from transformers import PreTrainedTokenizerFast

from luopan.errors import RecipeError
from luopan.rl.line import Line
from luopan.rl.teacher import EndpointTeacher, LocalTeacher
from luopan.tokens.batch import Doc
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer


def documents(size: int) -> list[Doc]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for length in (5, 9, 7):
        ids = torch.randint(8, size, (length,), generator=generator).tolist()
        found.append(Doc(ids, [-100, -100, *ids[2:]]))
    return found


def test_the_server_teaches_as_its_model_does(server: Running, tokenizer: PreTrainedTokenizerFast) -> None:
    model, size = server.app.state.desk.models["noise"].generator.model, len(tokenizer)
    far = EndpointTeacher(Line(f"{server.url}/v1"), "noise", 5, size)
    near = LocalTeacher(model, 5, size, 1.0, max_length=32, pad_id=0, precision="fp32")
    far.check(tokenizer)
    docs = documents(size)
    for (ids, values), (known, wanted) in zip(far.top(docs), near.top(docs), strict=True):
        assert torch.equal(ids, known)
        torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-4)
    for one, other in zip(far.sampled(docs), near.sampled(docs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_another_tokenizer_is_found_out(server: Running) -> None:
    draw = random.Random(1)
    words = ["".join(draw.choice("bdfgklmprstuvz") for _ in range(6)) for _ in range(60)]
    other = train_tokenizer([" ".join(words)] * 5, TokenizerConfig(vocab_size=384))
    far = EndpointTeacher(Line(f"{server.url}/v1"), "noise", 5, len(other))
    with pytest.raises(
        RecipeError, match=r"another vocabulary than the student, .* token \d+ is '.*' there and '.*' here"
    ):
        far.check(other)
