"""Requests that are wrong many times over: refused at the first fault, before they cost anything."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from luopan.serve.playground import Ask
from luopan.serve.protocol import ChatRequest, CompletionRequest, EmbeddingRequest
from luopan.serve.tally import Vote

MANY = 100_000
MESSAGE = {"role": "user", "content": "x"}
SAID = {"model": "a", "texts": ["x"]}
TEXT = {"model": "m", "prompt": "x"}
CHAT = {"model": "m", "messages": [MESSAGE]}
VOTE = {"suite": "s", "session": "1", "prompt": {}, "answers": [SAID, {**SAID, "model": "b"}], "vote": "tie"}
UNKNOWN = {f"x{number}": 1 for number in range(MANY)}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {**TEXT, "prompt": [-1] * MANY}),
        (CompletionRequest, {**TEXT, "prompt": [[-1] * MANY]}),
        (CompletionRequest, {**TEXT, "prompt": [[]] * MANY}),
        (CompletionRequest, {**TEXT, "prompt": [True] * MANY}),
        (CompletionRequest, {**TEXT, "prompt": [None] * MANY}),
        (CompletionRequest, {**TEXT, "prompt": ["x", 1] * MANY}),
        (CompletionRequest, {**TEXT, "prompt": [{}] * MANY}),
        (CompletionRequest, {**TEXT, "stop": [5] * MANY}),
        (CompletionRequest, {**TEXT, "bad_words": [5] * MANY}),
        (CompletionRequest, {**TEXT, "stop_token_ids": [-1] * MANY}),
        (CompletionRequest, {**TEXT, "logit_bias": {str(number): 1000 for number in range(MANY)}}),
        (CompletionRequest, {**TEXT, **UNKNOWN}),
        (EmbeddingRequest, {"model": "m", "input": [-1] * MANY}),
        (EmbeddingRequest, {"model": "m", "input": [["x"]] * MANY}),
        (ChatRequest, {**CHAT, "messages": [5] * MANY}),
        (ChatRequest, {**CHAT, "messages": [{}] * MANY}),
        (ChatRequest, {**CHAT, "messages": [MESSAGE] * MANY}),
        (ChatRequest, {**CHAT, "messages": [{"role": "user", "content": [5] * MANY}]}),
        (ChatRequest, {**CHAT, "messages": [{"role": "assistant", "tool_calls": [{}] * MANY}]}),
        (ChatRequest, {**CHAT, "messages": [{**MESSAGE, **UNKNOWN}]}),
        (ChatRequest, {**CHAT, "tools": [{}] * MANY}),
        (ChatRequest, {**CHAT, "modalities": ["x"] * MANY}),
        (Ask, {"messages": [5] * MANY}),
        (Ask, {"tools": [5] * MANY}),
        (Ask, UNKNOWN),
        (Vote, {**VOTE, "answers": [{"model": "a", "texts": [5] * MANY}] * 2}),
        (Vote, {**VOTE, "answers": [5] * MANY}),
        (Vote, {**VOTE, **UNKNOWN}),
    ],
)
def test_many_faults_cost_no_more_than_one(kind: type[BaseModel], body: dict[str, Any]) -> None:
    data = json.loads(json.dumps(body))
    began = time.process_time()
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(data)
    seconds = time.process_time() - began
    assert caught.value.error_count() <= 12  # one for each branch of a union, and for each field that is missing
    assert seconds < 0.1, seconds
    tracemalloc.start()
    with pytest.raises(ValidationError):
        kind.model_validate(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6, peak


def test_long_prompts_that_are_sound_are_taken_at_once() -> None:
    ids = list(range(1_000_000))
    began = time.process_time()
    assert CompletionRequest.model_validate({**TEXT, "prompt": ids}).prompt == ids
    assert time.process_time() - began < 0.25


@pytest.mark.parametrize(
    "prompt", ["x", ["x", "y"], ["x"] * 2048, [1, 2], [[1, 2], [3]], [0, 2**31 - 1], [""], [[1]] * 2048]
)
def test_every_form_of_a_prompt_is_taken(prompt: Any) -> None:
    assert CompletionRequest.model_validate({**TEXT, "prompt": prompt}).prompt == prompt
    assert EmbeddingRequest.model_validate({"model": "m", "input": prompt}).input == prompt


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([1, 2, -1, -2], "item 2 is no token id"), ([1, True], "item 1"), ([1, 2.0], "item 1"), ([2**31], "item 0"),
        ([[1], [2, "x"]], "1: item 1"), ([[1], []], "1: an empty list"), ([], "an empty list"), (5, "must be a text"),
        (["x", 1], "cannot be mixed"), ([1, [2]], "cannot be mixed"), (["x"] * 2049, "2048 are the most"),
    ],
)  # fmt: skip
def test_other_forms_are_refused_in_words(prompt: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        CompletionRequest.model_validate({**TEXT, "prompt": prompt})
    [error] = caught.value.errors()
    assert error["loc"] == ("prompt",)


def test_the_unknown_field_is_still_named() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({**CHAT, **UNKNOWN})
    [error] = caught.value.errors()
    assert error["loc"] == ("x0",) and error["type"] == "extra_forbidden"


def test_the_schema_describes_every_form_of_a_prompt() -> None:
    forms = CompletionRequest.model_json_schema()["properties"]["prompt"]["anyOf"]
    assert [form["type"] for form in forms] == ["string", "array", "array", "array"]
    assert forms[2]["items"] == {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}
