"""The templates that ship: the text and the mask of transformers, whole conversations, nothing dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.tokens.chat import Conversation, encode_chat, encode_chats, encode_prompt, stop_ids
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.template import compile_template, joined
from luopan.tokens.templates import TEMPLATES, identify, template_source, templates_table
from luopan.tokens.tokenizer import train_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What the weather is like",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town"},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["place"],
        },
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Ulm", "days": [1, 2]}}}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TALKS: dict[str, list[dict[str, Any]]] = {
    "one turn": [user("Hi."), says("Hello!")],
    "several turns": [user("Hi."), says("Hello!"), user("How are you?\n\n"), says("Well.\n")],
    "system": [{"role": "system", "content": "Be brief."}, user("Hi."), says("Hello!")],
    "system later": [
        user("Hi."), says("Hello!"), {"role": "system", "content": "Be rude."}, user("So?"), says("Go."),
    ],
    "parts": [
        user([{"type": "text", "text": "Hi"}, {"type": "text", "text": " you."}]),
        says([{"type": "text", "text": "Yes?"}]),
    ],
    "empty system": [{"role": "system", "content": ""}, user("Hi."), says("Hello!")],
    "thinking": [user("2+2?"), says("4", reasoning_content="two and two")],
    "thinking twice": [
        user("2+2?"), says("4", reasoning_content="two and two"), user("+1?"), says("5", reasoning_content="and one"),
    ],
    "call": [user("Weather in Ulm?"), says("", tool_calls=[CALL])],
    "call and result": [
        user("Weather in Ulm?"), says(None, tool_calls=[CALL]),
        {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "rain"}, says("It rains."),
    ],
}  # fmt: skip
REFUSES = {
    "chatml": {"call", "call and result"},
    "llama3": {"thinking", "thinking twice"},
    "gemma3": {"thinking", "thinking twice", "call", "call and result", "system later"},
    "deepseek-r1": {"call", "call and result", "system later"},
}
LAST_ONLY = {"gpt-oss"}


@pytest.fixture(scope="module")
def tokenizer_for() -> Callable[[str], PreTrainedTokenizerFast]:
    texts = [str(TALKS), template_source("gpt-oss"), "What is the weather like? It rains.\n\n\n" * 20]
    made: dict[str, PreTrainedTokenizerFast] = {}

    def make(name: str) -> PreTrainedTokenizerFast:
        if name not in made:
            tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=640, min_frequency=1))
            known = tokenizer.get_vocab()
            new = [AddedToken(t, special=True, normalized=False) for t in TEMPLATES[name].tokens if t not in known]
            tokenizer.add_tokens(new, special_tokens=True)
            tokenizer.chat_template = template_source(name)
            tokenizer.eos_token = TEMPLATES[name].stop[0]
            made[name] = tokenizer
        return made[name]

    return make


def tools_of(talk: str) -> list[dict[str, Any]] | None:
    return [TOOL] if "call" in talk else None


CASES = [
    (name, talk, thinking)
    for name in TEMPLATES
    for talk in TALKS
    for thinking in (True, False)
    if talk not in REFUSES.get(name, ())
]


@pytest.mark.parametrize(("name", "talk", "thinking"), CASES)
def test_text_tokens_and_mask_are_those_of_transformers(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str, talk: str, thinking: bool
) -> None:
    tokenizer, messages, tools = tokenizer_for(name), TALKS[talk], tools_of(talk)
    arguments: dict[str, Any] = {"enable_thinking": thinking, "keep_thinking": True}
    peer = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **arguments)
    ours = compile_template(template_source(name)).render(
        messages, tools=tools, **{**tokenizer.special_tokens_map, **arguments}
    )
    assert joined(ours) == peer
    asked = messages[: 1 + (messages[0]["role"] == "system")]
    prompt = tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=True, **arguments)
    ids = encode_prompt(tokenizer, asked, enable_thinking=thinking, tools=tools, keep_thinking=True)
    assert tokenizer.decode(ids) == prompt
    if any("reasoning_content" in m for m in messages) and not thinking:
        return  # thinking that is switched off is not part of the text
    train_on = "last_turn" if name in LAST_ONLY else "assistant"
    example = encode_chat(tokenizer, messages, enable_thinking=thinking, tools=tools, train_on=train_on)
    theirs = tokenizer.apply_chat_template(
        messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True, **arguments
    )
    assert tokenizer.decode(example.input_ids) == peer
    labelled = zip(example.input_ids, example.labels, strict=True)
    text = "".join(tokenizer.decode([token]) for token, label in labelled if label != -100)
    expected = [t for t, mask in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True) if mask]
    assert text == "".join(tokenizer.decode([t]) for t in expected)
    assert example.labels[-1] in (-100, *stop_ids(tokenizer))
    trained = [label for label in example.labels if label != -100]
    assert trained[-1] in stop_ids(tokenizer)


@pytest.mark.parametrize(("name", "talk"), [(name, talk) for name, talks in REFUSES.items() for talk in sorted(talks)])
def test_what_a_template_cannot_say_it_refuses(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str, talk: str
) -> None:
    with pytest.raises(LuopanError):
        encode_chat(tokenizer_for(name), TALKS[talk], enable_thinking=True, tools=tools_of(talk))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_what_training_puts_before_the_answer(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    tokenizer = tokenizer_for(name)
    for talk, messages in TALKS.items():
        if talk in REFUSES.get(name, ()):
            continue
        for thinking in (True, False):
            train_on = "last_turn" if name in LAST_ONLY else "assistant"
            try:
                example = encode_chat(
                    tokenizer, messages, enable_thinking=thinking, tools=tools_of(talk), train_on=train_on
                )
            except LuopanError:
                assert "thinking" in talk and not thinking
                continue
            prompt = encode_prompt(
                tokenizer, messages[:-1], enable_thinking=thinking, tools=tools_of(talk), keep_thinking=True
            )
            assert list(example.input_ids[: len(prompt)]) == prompt
            assert example.labels[len(prompt)] != -100 and example.labels[len(prompt) - 1] == -100


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_argument_that_a_template_has_no_place_for_is_refused(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    row = Conversation(TALKS["one turn"], arguments={"custom_instructions": "Rhyme."}, where="a.jsonl:3")
    found = encode_chats(tokenizer_for(name), [row])
    if name == "luopan":
        assert "Rhyme." in tokenizer_for(name).decode(found.examples[0].input_ids)
    else:
        (item,) = found.set_aside
        assert item.where == "a.jsonl:3" and "no place for custom_instructions" in item.reason


def test_the_stops_of_harmony_are_both_known(tokenizer_for: Callable[[str], PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizer_for("gpt-oss")
    assert {tokenizer.convert_ids_to_tokens(i) for i in stop_ids(tokenizer)} >= {"<|return|>", "<|call|>"}


def render(**arguments: Any) -> str:
    messages = arguments.pop("messages", TALKS["one turn"])
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
        messages=TALKS["system"], metadata={"Date": "1 May 2026", "Cutoff": 2025}, custom_instructions="Rhyme.",
        enable_thinking=True,
    )  # fmt: skip
    assert text.startswith(
        "<|im_start|>system\n## Metadata\nDate: 1 May 2026\nCutoff: 2025\n\nBe brief.\n"
        "## Custom instructions\nRhyme.\n/think<|im_end|>"
    )
    assert render(custom_instructions=None, metadata=None) == render()
    assert render(system_override="Only this.").startswith("<|im_start|>system\nOnly this.<|im_end|>\n<|im_start|>user")
    for beside in ({"messages": TALKS["system"]}, {"tools": [TOOL]}, {"metadata": {"a": 1}}):
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


def test_templates_know_their_names_and_the_table_has_them_all() -> None:
    for name, info in TEMPLATES.items():
        assert identify(template_source(name)) is info and info.name == name
        assert f"| `{name}` |" in templates_table()
        assert "strftime" not in template_source(name)
    assert identify("{{ messages }}") is None
    with pytest.raises(LuopanError, match="no chat template 'chatlm'"):
        template_source("chatlm")
