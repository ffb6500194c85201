"""Chat completions under the official client: what is said, how it ends, what it took."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from serve_kit import Running, ScriptedModel, apart

HELLO = [{"role": "user", "content": "the cat"}]


def test_an_answer_has_text_usage_and_a_reason(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("sat on a mat", HELLO)
    answer = client.chat.completions.create(model="actor", messages=HELLO, temperature=0)
    choice = answer.choices[0]
    assert choice.message.content == "sat on a mat" and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == actor.start
    assert answer.usage.completion_tokens == len(actor.script)  # with the token that ended it
    assert answer.usage.total_tokens == actor.start + len(actor.script)
    assert answer._request_id is not None and answer._request_id.startswith("req_")


def test_a_limit_ends_it_as_length(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("sat on a mat and then it ran away", HELLO)
    for name in ("max_tokens", "max_completion_tokens"):
        limit: Any = {name: 3}
        answer = client.chat.completions.create(model="actor", messages=HELLO, temperature=0, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None and answer.usage.completion_tokens == 3


def test_the_context_ends_it_as_length(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("mat", HELLO, end=False)
    answer = client.chat.completions.create(model="actor", messages=HELLO, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.total_tokens == 640


def test_a_stream_says_the_same(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("naïve café 🙂 你好", HELLO)
    chunks = list(client.chat.completions.create(model="actor", messages=HELLO, temperature=0, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "naïve café 🙂 你好"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)


def test_a_stream_tells_usage_where_it_is_asked(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("sat on", HELLO)
    chunks = list(
        client.chat.completions.create(
            model="actor", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(actor.script)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_ends_with_done(server: Running, actor: ScriptedModel) -> None:
    actor.says("sat", HELLO)
    with server.http() as http:
        body = {"model": "actor", "messages": HELLO, "stream": True, "temperature": 0}
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


def test_async_client(server: Running, actor: ScriptedModel) -> None:
    actor.says("then it ran", HELLO)

    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            whole = await client.chat.completions.create(model="actor", messages=HELLO, temperature=0)  # type: ignore[arg-type]
            stream = await client.chat.completions.create(  # type: ignore[call-overload]
                model="actor", messages=HELLO, temperature=0, stream=True
            )
            return whole.choices[0].message.content or "", "".join(
                [chunk.choices[0].delta.content or "" async for chunk in stream]
            )

    assert apart(ask()) == ("then it ran", "then it ran")


def test_stop_strings_across_tokens(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("the cat sat STOP on a mat", HELLO)
    for stop in ("STOP", ["nowhere", "t STO"]):
        given: Any = {"model": "actor", "messages": HELLO, "temperature": 0, "stop": stop}
        whole = client.chat.completions.create(**given)
        want = "the cat sat " if stop == "STOP" else "the cat sa"
        assert whole.choices[0].message.content == want and whole.choices[0].finish_reason == "stop"
        chunks = list(client.chat.completions.create(**given, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == want
        assert whole.usage is not None and whole.usage.completion_tokens < len(actor.script)


def test_thinking_is_apart(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("<think>\nit ran\n</think>\n\naway", HELLO, enable_thinking=True)
    more: Any = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
    answer = client.chat.completions.create(model="actor", messages=HELLO, temperature=0, **more)
    assert answer.choices[0].message.content == "away"
    assert answer.choices[0].message.reasoning_content == "it ran"  # type: ignore[attr-defined]
    details = answer.usage and answer.usage.completion_tokens_details
    assert details is not None and 0 < (details.reasoning_tokens or 0) < len(actor.script)
    chunks = list(client.chat.completions.create(model="actor", messages=HELLO, temperature=0, stream=True, **more))
    deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "it ran"
    assert "".join(delta["content"] or "" for delta in deltas) == "away"


def test_reasoning_effort_switches_thinking(client: openai.OpenAI) -> None:
    def say(**more: Any) -> str:
        answer = client.chat.completions.create(model="noise", messages=HELLO, temperature=0, max_tokens=9, **more)  # type: ignore[call-overload]
        return str(answer.choices[0].message)

    thinking = say(extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    assert say(reasoning_effort="high") == thinking != say() == say(reasoning_effort="none")


def test_n_answers(client: openai.OpenAI) -> None:
    given: Any = {"model": "noise", "messages": HELLO, "n": 3, "seed": 5, "max_tokens": 12}
    whole = client.chat.completions.create(**given)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert whole.usage is not None and whole.usage.completion_tokens <= 36
    assert whole.usage.prompt_tokens == client.chat.completions.create(**{**given, "n": 1}).usage.prompt_tokens  # type: ignore[union-attr]
    streamed: dict[int, str] = {0: "", 1: "", 2: ""}
    order, reasons = [], {}
    for chunk in client.chat.completions.create(**given, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] += choice.delta.content or ""
        order.append(choice.index)
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert [streamed[i] for i in range(3)] == texts
    assert set(reasons) == {0, 1, 2}
    assert order != sorted(order), "the choices came one after another instead of together"


def test_a_seed_repeats_and_no_seed_does_not(client: openai.OpenAI) -> None:
    def say(**more: Any) -> str | None:
        answer = client.chat.completions.create(model="noise", messages=HELLO, max_tokens=20, **more)  # type: ignore[call-overload]
        return answer.choices[0].message.content  # type: ignore[no-any-return]

    assert say(seed=7) == say(seed=7) != say(seed=8)
    assert len({say() for _ in range(4)}) > 1


def test_log_probabilities(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("café 🙂", HELLO)
    given: Any = {"model": "actor", "messages": HELLO, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(**given)
    entries = answer.choices[0].logprobs.content  # type: ignore[union-attr]
    assert entries is not None and len(entries) == len(actor.script) - 1  # the end is no text
    assert b"".join(bytes(entry.bytes or []) for entry in entries) == "café 🙂".encode()
    for entry in entries:
        assert entry.logprob == pytest.approx(0, abs=1e-4) and len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token and entry.top_logprobs[1].logprob < -20
    streamed = []
    for chunk in client.chat.completions.create(**given, stream=True):
        logprobs = chunk.choices[0].logprobs
        streamed += logprobs.content or [] if logprobs else []
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in entries]


def test_log_probabilities_leave_thinking_and_cut_text_out(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("<think>\nit ran\n</think>\n\nthe mat away then", HELLO, enable_thinking=True)
    answer = client.chat.completions.create(
        model="actor", messages=HELLO, temperature=0, logprobs=True, stop=" away",  # type: ignore[arg-type]
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )  # fmt: skip
    entries = answer.choices[0].logprobs.content  # type: ignore[union-attr]
    assert answer.choices[0].message.content == "the mat"
    text = b"".join(bytes(entry.bytes or []) for entry in entries or []).decode()
    assert "ran" not in text and text == "the mat"


def test_biases_and_penalties_reach_the_model(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("mat", HELLO, end=False)
    token = actor.script[0]
    cat = actor.tokenizer.encode("cat", add_special_tokens=False)[0]
    biased = client.chat.completions.create(
        model="actor",
        messages=HELLO,
        temperature=0,
        max_tokens=2,
        logit_bias={str(token): -100, str(cat): 90},  # type: ignore[arg-type]
    )
    assert "mat" not in (biased.choices[0].message.content or "")
    noise: Any = {"model": "noise", "messages": HELLO, "temperature": 0, "max_tokens": 40}
    plain = client.chat.completions.create(**noise).choices[0].message.content
    for more in ({"presence_penalty": 2, "frequency_penalty": 2}, {"extra_body": {"repetition_penalty": 5.0}}):
        changed: Any = {**noise, **more}
        assert client.chat.completions.create(**changed).choices[0].message.content != plain, more


def test_fields_without_effect_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="noise", messages=HELLO, max_tokens=2, user="me", metadata={"a": "b"}, store=False, top_p=0.9,  # type: ignore[arg-type]
        temperature=0, service_tier="auto", modalities=["text"],
    )  # fmt: skip
    assert answer.usage is not None and answer.usage.completion_tokens == 2


def test_parts_developer_and_tools_of_earlier_turns(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "ran", "arguments": '{"city": "12"}'}}
    messages: Any = [
        {"role": "developer", "content": "be the cat"},
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]},
        {
            "role": "assistant", "content": None, "refusal": None, "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "34"},
    ]  # fmt: skip
    same: Any = [{"role": "system", "content": "be the cat"}, {"role": "user", "content": "the cat"}, *messages[2:]]
    counts = []
    for given in (messages, same):
        answer = client.chat.completions.create(model="noise", messages=given, max_tokens=1)
        assert answer.usage is not None
        counts.append(answer.usage.prompt_tokens)
    assert counts[0] == counts[1]
