"""The templates that ship: the text and the mask of transformers, whole conversations, nothing dropped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.tokens.chat import Conversation, encode_chat, encode_chats, encode_prompt, render_mask, stop_ids
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
    "call with thinking and result": [
        user("Weather in Ulm?"), says("", tool_calls=[CALL], reasoning_content="look it up"),
        {"role": "tool", "name": "weather", "content": "rain"}, says("It rains.", reasoning_content="wet"),
        user("And now?"), says("Still.", reasoning_content="very wet"),
    ],
    "call and result": [
        user("Weather in Ulm?"), says(None, tool_calls=[CALL]),
        {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "rain"}, says("It rains."),
    ],
}  # fmt: skip
REFUSES = {
    "chatml": {"call", "call and result", "call with thinking and result"},
    "llama3": {"thinking", "thinking twice", "call with thinking and result"},
    "gemma3": {
        "thinking",
        "thinking twice",
        "call",
        "call and result",
        "call with thinking and result",
        "system later",
    },
    "deepseek-r1": {"system later"},
}
THINKLESS = {"llama3", "gemma3"}


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


def talks_of(name: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """The conversations that a template can say."""
    return [(talk, messages) for talk, messages in TALKS.items() if talk not in REFUSES.get(name, ())]


def tools_of(talk: str) -> list[dict[str, Any]] | None:
    return [TOOL] if "call" in talk else None


CASES = [
    (name, talk, thinking)
    for name in TEMPLATES
    for talk in TALKS
    for thinking in (True, False)
    if talk not in REFUSES.get(name, ()) and not (thinking and name in THINKLESS)
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
    example = encode_chat(tokenizer, messages, enable_thinking=thinking, tools=tools)
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
    for talk, messages in talks_of(name):
        for thinking in (True, False)[name in THINKLESS :]:
            example = encode_chat(tokenizer, messages, enable_thinking=thinking, tools=tools_of(talk))
            for number, message in enumerate(messages):
                if message["role"] == "assistant":
                    prompt = encode_prompt(
                        tokenizer, messages[:number], enable_thinking=thinking, tools=tools_of(talk), keep_thinking=True
                    )
                    assert list(example.input_ids[: len(prompt)]) == prompt
                    assert example.labels[len(prompt)] != -100 and example.labels[len(prompt) - 1] == -100


@pytest.mark.parametrize("name", TEMPLATES)
def test_of_turns_with_weights_those_with_1_are_learnt(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    """Every choice of turns: the labels are those of the chosen turns, each learnt as the last of its beginning."""
    tokenizer = tokenizer_for(name)
    for talk, messages in talks_of(name):
        given: dict[str, Any] = {"enable_thinking": name not in THINKLESS, "tools": tools_of(talk)}
        spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        alone = {i: encode_chat(tokenizer, messages[: i + 1], train_on="last_turn", **given).labels for i in spoken}
        whole = encode_chat(tokenizer, messages, **given)
        for chosen in product((0, 1), repeat=len(spoken)):
            weights = dict(zip(spoken, chosen, strict=True))
            weighted = [{**m, "weight": weights[i]} if i in weights else m for i, m in enumerate(messages)]
            if not any(chosen):
                with pytest.raises(LuopanError, match="weight 0"):
                    encode_chat(tokenizer, weighted, **given)
                continue
            example = encode_chat(tokenizer, weighted, **given)
            assert example.input_ids == whole.input_ids
            expected = [-100] * len(whole)
            for i in spoken:
                for place, label in enumerate(alone[i]):
                    expected[place] = label if weights[i] and label != -100 else expected[place]
            assert list(example.labels) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_turn_follows_the_prompt_of_inference(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    """With `keep_thinking=False`: what a model sees of earlier turns when it answers, in loops of tool calls too."""
    tokenizer = tokenizer_for(name)
    for talk, messages in talks_of(name):
        tools, thinking = tools_of(talk), name not in THINKLESS
        for length in (i + 1 for i, message in enumerate(messages) if message["role"] == "assistant"):
            example = encode_chat(
                tokenizer, messages[:length], enable_thinking=thinking, tools=tools, keep_thinking=False,
                train_on="last_turn",
            )  # fmt: skip
            prompt = encode_prompt(tokenizer, messages[: length - 1], enable_thinking=thinking, tools=tools)
            assert list(example.input_ids[: len(prompt)]) == prompt
            assert example.num_trained and example.labels[len(prompt)] != -100
            text = tokenizer.decode(prompt)
            if talk == "call with thinking and result" and length == 4:
                assert "look it up" in text
            elif length == 6:
                assert "look it up" not in text and "wet" not in text


def where_trl_lies() -> Path:
    """TRL carries the templates that came with the models; it is not imported."""
    found = importlib.util.find_spec("trl")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "chat_templates"


ORIGINALS = [
    ("qwen3", "qwen3", talk, thinking) for talk in TALKS if "call" not in talk and talk != "parts"
    for thinking in (True, False)
] + [
    ("gemma3", "gemma3", talk, False) for talk in TALKS if talk not in REFUSES["gemma3"] and talk != "parts"
] + [
    ("deepseek-r1", "deepseek_r1_distill", talk, True) for talk in ("one turn", "several turns", "system")
] + [
    ("llama3", "llama3", talk, False) for talk in ("one turn", "several turns", "system", "system later")
]  # fmt: skip


@pytest.mark.parametrize(("name", "original", "talk", "thinking"), ORIGINALS)
def test_prompts_are_those_of_the_models_own_templates(name: str, original: str, talk: str, thinking: bool) -> None:
    """Two differences: white space around a text stays here, and so do Qwen's empty blocks of earlier turns."""
    bos = {"gemma3": "<bos>", "deepseek-r1": "<｜begin▁of▁sentence｜>", "llama3": "<|begin_of_text|>"}.get(name, "")
    messages = [{**m, "content": m["content"].strip() if isinstance(m["content"], str) else m["content"]}
                for m in TALKS[talk][:-1]]  # fmt: skip
    source = (where_trl_lies() / f"{original}.jinja").read_text(encoding="utf-8")
    arguments = {"bos_token": bos, "add_generation_prompt": True, "enable_thinking": thinking}
    theirs = joined(compile_template(source).render(messages, **arguments))
    ours = joined(compile_template(template_source(name)).render(messages, **arguments))
    block = "<think>\n\n</think>\n\n"
    if name == "qwen3" and not thinking:
        ours = ours.removesuffix(block).replace(block, "") + block
    assert ours == theirs


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


def test_arguments_take_the_place_of_nothing(tokenizer_for: Callable[[str], PreTrainedTokenizerFast]) -> None:
    for given in ({"tools": [TOOL]}, {"messages": []}, {"enable_thinking": True}, {"eos_token": "x"}):
        row = Conversation(TALKS["one turn"], arguments=given, where="a.jsonl:3")
        (item,) = encode_chats(tokenizer_for("luopan"), [row]).set_aside
        assert next(iter(given)) in item.reason and item.where == "a.jsonl:3"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_switch_that_does_nothing_is_refused(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    tokenizer, messages = tokenizer_for(name), TALKS["one turn"]
    if name not in THINKLESS:
        on, off = (encode_prompt(tokenizer, messages[:1], enable_thinking=thinking) for thinking in (True, False))
        assert name == "chatml" or on != off
        return
    for call in (encode_chat, encode_prompt):
        with pytest.raises(LuopanError, match="no thinking mode"):
            call(tokenizer, messages, enable_thinking=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_thinking_that_is_switched_off_is_not_trained(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    if name not in THINKLESS:
        tokenizer = tokenizer_for(name)
        assert "two and two" not in tokenizer.decode(encode_chat(tokenizer, TALKS["thinking"]).input_ids)


def test_a_vocabulary_without_the_stop_token_is_refused() -> None:
    bare = train_tokenizer([str(TALKS)] * 20, TokenizerConfig(vocab_size=384, min_frequency=1))
    for name in ("llama3", "gemma3", "command-a", "gpt-oss"):
        bare.chat_template = template_source(name)
        with pytest.raises(LuopanError, match="is text and no control token"):
            stop_ids(bare)


@pytest.mark.parametrize("name", TEMPLATES)
def test_control_tokens_in_calls_and_results_are_text(
    tokenizer_for: Callable[[str], PreTrainedTokenizerFast], name: str
) -> None:
    if "call" in REFUSES.get(name, ()):
        return
    tokenizer = tokenizer_for(name)
    ways: list[dict[str, Any]] = [{}]
    if name == "luopan":
        ways.append({"python_tools": "def weather(place): ..."})
    for arguments in ways:
        counts = []
        for typed in ("sun", f"{TEMPLATES[name].stop[-1]} \"'"):
            given = {"place": typed, "more": [{"a": typed, "b": None}, True]}
            messages = [
                user("Go."), says("", tool_calls=[{"function": {"name": "weather", "arguments": given}}]),
                {"role": "tool", "name": "weather", "content": typed}, says("Done."),
            ]  # fmt: skip
            tools = None if arguments else [TOOL]
            example = encode_chat(tokenizer, messages, tools=tools, arguments=arguments)
            counts.append(
                [list(example.input_ids).count(tokenizer.convert_tokens_to_ids(t)) for t in TEMPLATES[name].tokens]
            )
            assert "\\ud" not in tokenizer.decode(example.input_ids)
        assert counts[0] == counts[1]


def test_harmony_keeps_every_turn_as_it_was_said(tokenizer_for: Callable[[str], PreTrainedTokenizerFast]) -> None:
    tokenizer, messages = tokenizer_for("gpt-oss"), TALKS["call with thinking and result"]
    shown = render_mask(tokenizer, encode_chat(tokenizer, messages, enable_thinking=True, tools=[TOOL]))
    assert shown.split("<|start|>user<|message|>", 1)[1] == (
        "Weather in Ulm?<|end|><|start|>assistant⟦<|channel|>analysis<|message|>look it up<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        '{"place": "Ulm", "days": [1, 2]}<|call|>⟧'
        "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>rain<|end|><|start|>assistant"
        "⟦<|channel|>analysis<|message|>wet<|end|><|start|>assistant<|channel|>final<|message|>It rains.<|return|>⟧"
        "<|start|>user<|message|>And now?<|end|><|start|>assistant"
        "⟦<|channel|>analysis<|message|>very wet<|end|><|start|>assistant<|channel|>final<|message|>Still.<|return|>⟧"
    )
    prompt = tokenizer.decode(encode_prompt(tokenizer, messages[:5], enable_thinking=True, tools=[TOOL]))
    assert "analysis<|message|>" not in prompt and "It rains.<|end|>" in prompt


def test_harmony_writes_types_out() -> None:
    properties = {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "one\ntwo"},
        "b": {"type": "integer", "minimum": 3, "nullable": True},
        "c": {"type": "object", "properties": {"d": {"type": "boolean", "description": "inner"}}, "required": ["d"]},
        "e": {},
    }
    tool = {"function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    template = compile_template(template_source("gpt-oss"))
    text = joined(template.render([user("Go.")], tools=[tool]))
    assert text.partition("type f = ")[2].partition("}) => any")[0] == (
        "(_: {\n// one\n// two\na?: string | null,\n// minimum: 3\nb?: number | null,\n"
        "c?: {\n// inner\nd: boolean,\n},\ne?: any,\n"
    )
    properties["e"] = {"$ref": "#/$defs/e"}
    with pytest.raises(LuopanError, match=r"no \$ref"):
        template.render([user("Go.")], tools=[tool])


def test_results_are_linked_to_their_calls() -> None:
    """Command A names the call that a result belongs to; without ids their order says it."""
    calls = [{"function": {"name": "weather", "arguments": {"place": place}}} for place in ("Ulm", "Bonn")]
    results = [{"role": "tool", "content": text} for text in ("rain", "sun")]
    template = compile_template(template_source("command-a"))
    text = joined(template.render([user("Go."), says("", tool_calls=calls), *results]))
    for number, (place, found) in enumerate((("Ulm", "rain"), ("Bonn", "sun"))):
        assert f'"tool_call_id": "{number}", "tool_name": "weather", "parameters": {{"place": "{place}"' in text
        assert f'"tool_call_id": "{number}", "results": {{"0": "{found}"' in text
    with pytest.raises(LuopanError, match="follows no call"):
        template.render([user("Go."), *results])


def test_the_stops_of_harmony_are_both_known(tokenizer_for: Callable[[str], PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizer_for("gpt-oss")
    assert {tokenizer.convert_ids_to_tokens(i) for i in stop_ids(tokenizer)} >= {"<|return|>", "<|call|>"}


def test_templates_know_their_names_and_the_table_has_them_all() -> None:
    for name, info in TEMPLATES.items():
        assert identify(template_source(name)) is info and info.name == name
        assert f"| `{name}` |" in templates_table()
        assert "strftime" not in template_source(name)
    assert identify("{{ messages }}") is None
    page = Path(__file__).parents[2] / "docs" / "chat-templates.md"
    assert templates_table() in page.read_text(encoding="utf-8")
    with pytest.raises(LuopanError, match="no chat template 'chatlm'"):
        template_source("chatlm")
