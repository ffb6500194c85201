"""TextGenerator with the formats of replies: thinking, tool calls and answers of every template, in every method."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
from replies_tokenizers import ASKED, TOOLS, ids_of, tokenizer_for

from luopan.generate.text import Reply, TextGenerator
from luopan.tokens.chat import encode_chat, encode_prompt
from luopan.tokens.templates import TEMPLATES

TALK = [ASKED]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Ulm 東京"}}}
CALLING = sorted(set(TEMPLATES) - {"chatml", "gemma3"})
Speaker = Callable[..., TextGenerator]


@pytest.fixture
def speaker(scripted: Callable[..., Any]) -> Speaker:
    """A generator of a template that says given tokens after a given prompt."""

    def build(name: str, prompt: list[int], said: list[int]) -> TextGenerator:
        tokenizer = tokenizer_for(name)
        model = scripted([*prompt, *said], context=len(prompt) + len(said) + 8)
        model.config = model.config.model_copy(update={"vocab_size": len(tokenizer)})
        return TextGenerator(model, tokenizer)

    return build


def says(name: str, message: dict[str, Any], **more: Any) -> tuple[list[int], list[int]]:
    """The prompt, and the tokens of a message with the one that ends it."""
    tokenizer, thinking = tokenizer_for(name), "reasoning_content" in message
    example = encode_chat(tokenizer, [ASKED, {"role": "assistant", **message}], enable_thinking=thinking, **more)
    prompt = encode_prompt(tokenizer, TALK, enable_thinking=thinking, keep_thinking=True, **more)
    return prompt, [label for label in example.labels if label != -100]


def finished(stream: Generator[Any, None, Reply]) -> tuple[list[Any], Reply]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


@pytest.mark.parametrize("name", CALLING)
def test_every_method_gives_thinking_calls_and_text(speaker: Speaker, name: str) -> None:
    thinks = name != "llama3"
    message: dict[str, Any] = {"content": "", "tool_calls": [CALL]}
    if thinks:
        message["reasoning_content"] = "hm\n\nso"
    generator = speaker(name, *says(name, message, tools=TOOLS))
    given: dict[str, Any] = {"enable_thinking": thinks, "tools": TOOLS, "temperature": 0, "max_new_tokens": 200}
    reply = generator.chat(TALK, **given)
    assert (reply.text, reply.thinking, reply.finish_reason) == ("", "hm\n\nso" if thinks else None, "stop")
    (call,) = reply.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("weather", {"place": "Ulm 東京"})
    assert bool(reply.thinking_tokens) == thinks and reply.thinking_tokens < len(reply.tokens) and not reply.faults
    pieces, streamed = finished(generator.stream_chat(TALK, **given))
    assert streamed == reply and "".join(pieces) == (reply.thinking or "")
    assert all(piece.thinking and piece.kind == "thinking" for piece in pieces) and len(pieces) >= thinks
    assert generator.batch([TALK, TALK], stop=["never"], **given)[1] == reply
    (beam,) = generator.beam_search(TALK, num_beams=2, **given)
    assert replace(beam, score=None, logprobs=reply.logprobs) == reply


@pytest.mark.parametrize("name", ["deepseek-r1", "gpt-oss", "command-a"])
def test_thinking_and_answer_of_other_formats(speaker: Speaker, name: str) -> None:
    message = {"content": "It is 4.\nSTOP", "reasoning_content": "two and two, STOP"}
    generator = speaker(name, *says(name, message))
    reply = generator.chat(TALK, True, temperature=0)
    assert (reply.thinking, reply.text) == ("two and two, STOP", "It is 4.\nSTOP")
    stopped = generator.chat(TALK, True, temperature=0, stop=["STOP"])
    assert (stopped.thinking, stopped.text, stopped.finish_reason) == (reply.thinking, "It is 4.\n", "stop")
    assert len(stopped.tokens) < len(reply.tokens)
    pieces, streamed = finished(generator.stream_chat(TALK, True, temperature=0, stop=["STOP"]))
    assert streamed == stopped and "".join(piece for piece in pieces if not piece.thinking) == "It is 4.\n"
    best = generator.best_of(TALK, 1, enable_thinking=True, temperature=0)[0]
    assert (best.thinking, best.text) == (reply.thinking, reply.text)


def test_broken_calls_stand_in_the_text(speaker: Speaker) -> None:
    said = '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>'
    tokenizer = tokenizer_for("luopan")
    prompt = encode_prompt(tokenizer, TALK, tools=TOOLS)
    ids = [*ids_of(tokenizer, said), *ids_of(tokenizer, "<|im_end|>")]
    reply = speaker("luopan", prompt, ids).chat(TALK, tools=TOOLS, temperature=0)
    assert reply.text == said and reply.tool_calls == [] and "must be an object" in reply.faults[0].reason


def test_arguments_of_the_template(speaker: Speaker) -> None:
    """They reach the prompt, and Python tools are tools."""
    arguments = {"python_tools": "def weather(place): ...", "custom_instructions": "Rhyme."}
    message = {"content": "I look.", "tool_calls": [CALL]}
    prompt, said = says("luopan", message, arguments=arguments)
    generator = speaker("luopan", prompt, said)
    assert generator.encode(TALK, arguments=arguments) == prompt
    given: dict[str, Any] = {"arguments": arguments, "temperature": 0}
    reply = generator.chat(TALK, **given)
    assert (reply.text, reply.prompt_tokens) == ("I look.", len(prompt)) and reply.tool_calls[0].name == "weather"
    assert finished(generator.stream_chat(TALK, **given))[1] == reply
    assert replace(generator.beam_search(TALK, num_beams=1, **given)[0], score=None, logprobs=reply.logprobs) == reply
    assert replace(generator.best_of(TALK, 1, **given)[0], score=None) == reply
    with pytest.raises(Exception, match="no place for nonsense"):
        generator.chat(TALK, arguments={"nonsense": 1})
    with pytest.raises(Exception, match="arguments"):
        generator.batch(["a text"], arguments=arguments)


def test_a_text_that_is_continued_has_no_parts(speaker: Speaker) -> None:
    """What looks like thinking or a call is text where there is no conversation."""
    tokenizer = tokenizer_for("qwen3")
    said = '<think>a</think><tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    generator = speaker("qwen3", ids_of(tokenizer, "Go"), [*ids_of(tokenizer, said), tokenizer.eos_token_id])
    reply = generator.batch(["Go"], temperature=0)[0]
    assert (reply.text, reply.thinking, reply.tool_calls) == (said, None, [])
    assert "".join(generator.stream("Go", temperature=0)) == said
