"""What answers are made of, where it is out of the ordinary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from serve_kit import tiny_model

from luopan.generate.replies import Piece
from luopan.serve.answers import ForcedCall
from luopan.serve.scoring import prompt_logprobs


class Said:
    """A reply that is one piece."""

    thinking_tokens = 0

    def __init__(self, text: str) -> None:
        self.text = text

    def push(self, token: int) -> Sequence[Piece]:
        return [Piece(self.text, "answer")]

    def finish(self) -> Sequence[Piece]:
        return []


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "f", "arguments": {"x": [1]}}', [("f", '{"x": [1]}')]),
        ('{"name": "f", "arguments": {"x"', []),
        ('{"name": "f", "arguments": ' + "[" * 100_000 + "]" * 100_000 + "}", []),
    ],
)
def test_a_forced_call_is_read_or_none(text: str, calls: list[Any]) -> None:
    call = ForcedCall(Said(text))  # type: ignore[arg-type]
    assert list(call.push(5)) == [] and list(call.finish()) == []
    assert [(one.name, one.arguments) for one in call.tool_calls] == calls


def test_no_more_tokens_are_likeliest_than_there_are() -> None:
    model = tiny_model(8)
    heard = prompt_logprobs(model, [1, 2, 3], 20)
    assert [len(item.top or []) for item in heard] == [8, 8]
    assert [len(item.top or []) for item in prompt_logprobs(model, [1, 2, 3], 5)] == [5, 5]
