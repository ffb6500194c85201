"""Luopan's own chat template: what it always was, its structured system prompt, its switch, its Python tools."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.tokens.chat import encode_prompt
from luopan.tokens.template import compile_template, joined
from luopan.tokens.templates import template_source

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


ONE_TURN = [user("Hi."), says("Hello!")]
SYSTEM = [{"role": "system", "content": "Be brief."}, *ONE_TURN]


def render(**arguments: Any) -> str:
    messages = arguments.pop("messages", ONE_TURN)
    return joined(compile_template(template_source("luopan")).render(messages, **arguments))


def test_luopans_plain_conversations_are_what_they_were() -> None:
    """What the shipped models were trained on, to the letter."""
    assert render() == (
        "<|im_start|>system\n/no_think<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
    )
    talk = [{"role": "system", "content": "Be brief."}, user("2+2?"), says("4", reasoning_content="two and two")]
    assert render(messages=talk, enable_thinking=True, keep_thinking=True) == (
        "<|im_start|>system\nBe brief.\n/think<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\ntwo and two\n</think>\n4<|im_end|>\n"
    )
    tool = {"type": "function", "function": {"name": "f"}}
    assert render(messages=[user("Go.")], tools=[tool], add_generation_prompt=True) == (
        '<|im_start|>system\nTools: [{"type": "function", "function": {"name": "f"}}]\n'
        'To use one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>\n/no_think<|im_end|>\n'
        "<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_luopans_structured_system_prompt() -> None:
    text = render(
        messages=SYSTEM, metadata={"Date": "1 May 2026", "Cutoff": 2025}, custom_instructions="Rhyme.",
        enable_thinking=True,
    )  # fmt: skip
    assert text.startswith(
        "<|im_start|>system\n## Metadata\nDate: 1 May 2026\nCutoff: 2025\n\nBe brief.\n"
        "## Custom instructions\nRhyme.\n/think<|im_end|>"
    )
    assert render(custom_instructions=None, metadata=None) == render()
    assert render(system_override="Only this.").startswith("<|im_start|>system\nOnly this.<|im_end|>\n<|im_start|>user")
    for beside in ({"messages": SYSTEM}, {"tools": [TOOL]}, {"metadata": {"a": 1}}):
        with pytest.raises(LuopanError, match="system_override replaces"):
            render(system_override="Only this.", **beside)


def test_luopans_switch_in_the_system_prompt() -> None:
    for flag, asked in (("/think", True), ("/no_think", False)):
        talk = [{"role": "system", "content": f"Be brief. {flag}"}, user("Hi.")]
        plain = [{"role": "system", "content": "Be brief."}, user("Hi.")]
        assert render(messages=talk, enable_thinking=not asked) == render(messages=plain, enable_thinking=asked)
    assert "/think" in render(messages=[user("What does /think do?")])  # of a user it is text


def test_luopans_python_tools() -> None:
    arguments = {"a": True, "b": "it's", "c": None}
    call = says("Let me see.", tool_calls=[{"function": {"name": "f", "arguments": arguments}}])
    text = render(messages=[user("Go."), call], python_tools=["def f(a: bool, b: str, c=None) -> str: ..."])
    assert "def f(a: bool, b: str, c=None) -> str: ...\n/no_think<|im_end|>" in text
    assert 'Let me see.<code>\nf(a=True, b="it\'s", c=None)\n</code><|im_end|>' in text
    with pytest.raises(LuopanError, match="as an object"):
        bad = says("", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
        render(messages=[user("Go."), bad], python_tools="def f(): ...")


def test_a_switch_is_a_control_token_in_the_system_block_only(tokenizer: PreTrainedTokenizerFast) -> None:
    think = tokenizer.convert_tokens_to_ids("/think")
    first = [{"role": "system", "content": "Be brief. /think"}, user("Hi."), says("A"), user("So?")]
    later = [user("Hi."), says("A"), {"role": "system", "content": "Now think. /think"}, user("So? /think")]
    assert encode_prompt(tokenizer, first).count(think) == 1
    assert encode_prompt(tokenizer, later).count(think) == 0
