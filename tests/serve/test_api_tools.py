"""Tools, and answers of a given form."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from serve_kit import ScriptedModel

ASK: Any = [{"role": "user", "content": "the weather then"}]
PARAMETERS = {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "away", "parameters": {"type": "object", "properties": {}}}},
]
SPECS = [{"type": "function", "function": tool["function"]} for tool in TOOLS]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "東京都"}}</tool_call>'
OTHER = '<tool_call>{"name": "away", "arguments": {}}</tool_call>'


def test_a_call_is_parsed(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says(f"then {CALL}", ASK, tools=SPECS)
    answer = client.chat.completions.create(model="actor", messages=ASK, tools=TOOLS, temperature=0)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and (choice.message.content or "").strip() == "then"
    call: Any = (choice.message.tool_calls or [])[0]
    assert call.type == "function" and call.function.name == "weather" and call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {"city": "東京都"}


def test_a_streamed_call_is_the_same(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says(CALL + OTHER, ASK, tools=SPECS)
    given: Any = {"model": "actor", "messages": ASK, "tools": TOOLS, "temperature": 0}
    whole: Any = client.chat.completions.create(**given).choices[0]
    calls: dict[int, Any] = {}
    reasons, text = [], ""
    for chunk in client.chat.completions.create(**given, stream=True):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for call in choice.delta.tool_calls or []:
            calls[call.index] = (call.id, call.function.name, call.function.arguments)
    told = [(call.id, call.function.name, call.function.arguments) for call in whole.message.tool_calls]
    assert [calls[0], calls[1]] == told and reasons == ["tool_calls"] == [whole.finish_reason]
    assert text == "" and whole.message.content is None


def test_one_call_where_parallel_ones_are_off(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says(CALL + OTHER, ASK, tools=SPECS)
    answer = client.chat.completions.create(
        model="actor", messages=ASK, tools=TOOLS, temperature=0, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1 and answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage is not None and answer.usage.completion_tokens < len(actor.script) - 5


def test_a_call_that_is_cut_off_is_none(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says(CALL, ASK, tools=SPECS)
    answer = client.chat.completions.create(model="actor", messages=ASK, tools=TOOLS, temperature=0, max_tokens=9)
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].message.tool_calls is None


def test_no_call_is_read_where_none_may_be_made(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says(OTHER, ASK)
    for more in ({"tools": TOOLS, "tool_choice": "none"}, {}):
        given: Any = {"model": "actor", "messages": ASK, "temperature": 0, **more}
        choice = client.chat.completions.create(**given).choices[0]
        assert choice.message.tool_calls is None and choice.finish_reason == "stop"
        assert '"away"' in (choice.message.content or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["weather", None])
def test_a_call_is_enforced(client: openai.OpenAI, name: str | None, stream: bool) -> None:
    """Of a model that says nothing but noise."""
    choice: Any = "required" if name is None else {"type": "function", "function": {"name": name}}
    given: Any = {
        "model": "noise",
        "messages": ASK,
        "tools": TOOLS,
        "tool_choice": choice,
        "seed": 1,
        "max_tokens": 300,
    }
    if stream:
        deltas = list(client.chat.completions.create(**given, stream=True))
        calls = [call for chunk in deltas for call in chunk.choices[0].delta.tool_calls or []]
        reason = deltas[-1].choices[0].finish_reason
    else:
        answer = client.chat.completions.create(**given).choices[0]
        calls, reason = list(answer.message.tool_calls or []), answer.finish_reason
        assert answer.message.content is None
    assert len(calls) == 1 and reason == "tool_calls"
    assert calls[0].function.name in ({name} if name else {"weather", "away"})
    if calls[0].function.name == "weather":
        arguments = json.loads(calls[0].function.arguments)
        assert set(arguments) == {"city"} and isinstance(arguments["city"], str) and len(arguments["city"]) <= 12


def test_json_by_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "cat": {"type": "boolean"}},
        "required": ["age", "cat"], "additionalProperties": False,
    }  # fmt: skip
    for seed in range(3):
        answer = client.chat.completions.create(
            model="noise", messages=ASK, seed=seed, max_tokens=200,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        )  # fmt: skip
        found = json.loads(answer.choices[0].message.content or "")
        assert 0 <= found["age"] <= 99 and isinstance(found["cat"], bool) and len(found) == 2
        assert answer.choices[0].finish_reason == "stop"


def test_the_clients_own_parsing(client: openai.OpenAI) -> None:
    class Cat(BaseModel):
        age: int
        sat: bool

    answer = client.chat.completions.parse(model="noise", messages=ASK, seed=3, max_tokens=400, response_format=Cat)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(answer.choices[0].message.parsed, Cat)
    else:
        pytest.fail("the number never ended")


def test_any_json_object(client: openai.OpenAI) -> None:
    reasons = set()
    for seed in range(4):
        choice = client.chat.completions.create(
            model="noise", messages=ASK, seed=seed, max_tokens=400, response_format={"type": "json_object"}
        ).choices[0]
        reasons.add(choice.finish_reason)
        assert (choice.message.content or "").lstrip().startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content or ""), dict)
    assert "stop" in reasons


def test_expressions_and_grammars(client: openai.OpenAI) -> None:
    for form, fits in (
        ({"regex": "[0-9]{3}-(cat|mat)"}, "[0-9]{3}-(cat|mat)"),
        ({"grammar": 'start: "on" | "at"'}, "on|at"),
    ):
        for ask in (client.chat.completions.create, client.completions.create):
            asked: Any = {"messages": ASK} if ask == client.chat.completions.create else {"prompt": "the"}
            answer: Any = ask(model="noise", max_tokens=50, seed=2, extra_body={"structured_outputs": form}, **asked)
            choice = answer.choices[0]
            text = choice.message.content if "messages" in asked else choice.text
            assert re.fullmatch(fits, text) and choice.finish_reason == "stop"


def test_a_budget_ends_the_thinking(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("<think>\n" + "it ran " * 40, ASK, enable_thinking=True, end=False)
    more: Any = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget": 10}}
    answer = client.chat.completions.create(model="actor", messages=ASK, temperature=0, max_tokens=60, **more)
    details = answer.usage and answer.usage.completion_tokens_details
    assert details is not None and 10 <= (details.reasoning_tokens or 0) <= 20  # with the marks around it
    assert answer.choices[0].message.content
