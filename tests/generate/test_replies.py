"""Replies read token by token: what a template writes comes back, whatever a model writes is read without harm."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from replies_tokenizers import (
    ASKED,
    TOOLS,
    bare_tokenizer,
    ids_of,
    some_message,
    spelled_tokenizer_for,
    tokenizer_for,
)
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Metaspace
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from luopan.generate.replies import Piece, ReplyFormat, ReplyParser, Said, reply_text
from luopan.generate.replies_formats import KNOWN
from luopan.generate.replies_harmony import HARMONY
from luopan.tokens.chat import encode_chat, encode_prompt
from luopan.tokens.templates import TEMPLATES

THINKLESS, CALLLESS = {"llama3", "gemma3"}, {"chatml", "gemma3"}
ONE_CALL = {"llama3", "gpt-oss"}
PROMPT = [ASKED]


def read(parser: ReplyParser, tokens: Sequence[int]) -> tuple[list[Piece], Said]:
    """All pieces of a reply, one token after the other, and the whole."""
    pieces: list[Piece] = []
    for token in tokens:
        pieces += parser.push(token)
    pieces += parser.finish()
    return pieces, parser.said(pieces)


def parsed(name: str, text: str, prompt: str = "", **more: Any) -> Said:
    """What a reply with this text (marks as tokens) is read as, by the format of a shipped template."""
    tokenizer = tokenizer_for(name)
    fmt = ReplyFormat.of(tokenizer)
    before = ids_of(tokenizer, prompt)
    _, said = read(fmt.parser(before, **more), ids_of(tokenizer, text))
    assert said == fmt.parse(ids_of(tokenizer, text), before, **more)
    return said


def calls_of(said: Said) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in said.tool_calls]


def messages_of(name: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Messages that a template can say."""
    draw = random.Random(f"{name}{seed}")
    found = []
    for _ in range(count):
        calls = 0 if name in CALLLESS else draw.randint(0, 1 if name in ONE_CALL else 3)
        thinking, beside = name not in THINKLESS and draw.random() < 0.6, name not in ONE_CALL and draw.random() < 0.5
        found.append(some_message(draw, thinking=thinking, calls=calls, beside=beside))
    return found


def written(name: str, message: dict[str, Any], **more: Any) -> tuple[list[int], list[int]]:
    """The prompt and what a model would have to write to say a message, without the token that ends it."""
    tokenizer = tokenizer_for(name)
    thinking = "reasoning_content" in message
    tools = None if name in CALLLESS or more else TOOLS
    example = encode_chat(tokenizer, [ASKED, message], enable_thinking=thinking, tools=tools, **more)
    prompt = encode_prompt(tokenizer, PROMPT, enable_thinking=thinking, tools=tools, keep_thinking=True, **more)
    assert list(example.input_ids[: len(prompt)]) == prompt
    return prompt, [label for label in example.labels if label != -100][:-1]


# ---------------------------------------------------------------------------------------------------- the round trip


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_writes_comes_back(name: str) -> None:
    """Token by token and at once; on the way nothing is shown that does not stay, so no part of a mark either."""
    tokenizer = tokenizer_for(name)
    fmt = ReplyFormat.of(tokenizer)
    assert fmt.name == name and fmt.thinking == (name not in THINKLESS) and fmt.tools == (name not in CALLLESS)
    for message in messages_of(name, 120, 0):
        prompt, tokens = written(name, message)
        parser = fmt.parser(prompt, TOOLS)
        thinking, content = message.get("reasoning_content", ""), message["content"]
        shown = {"thinking": "", "answer": ""}
        for token in tokens:
            for piece in parser.push(token):
                shown[piece.kind] += piece
                assert thinking.startswith(shown["thinking"]) and content.startswith(shown["answer"]), message
        for piece in parser.finish():
            shown[piece.kind] += piece
        assert shown == {"thinking": thinking, "answer": content}, message
        expected = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        said = fmt.parse(tokens, prompt, TOOLS)
        assert calls_of(said) == expected and not said.faults
        assert (said.thinking or "", said.text) == (thinking, content) and said.tool_calls == parser.tool_calls
        assert said.thinking_tokens == parser.thinking_tokens


@pytest.mark.parametrize("name", TEMPLATES)
def test_marks_may_come_as_characters(name: str) -> None:
    """A vocabulary without tokens for the marks; what is said has no marks in it, which nobody could tell apart."""
    tokenizer, spelled = tokenizer_for(name), spelled_tokenizer_for(name)
    fmt = ReplyFormat.of(spelled)
    for message in messages_of(name, 60, 1):
        prompt, tokens = written(name, message)
        text = tokenizer.decode(tokens)
        if text.count("<") != sum(text.count(mark) for mark in set(marks_of(name)) if mark in text):
            continue  # an angle bracket of the message's own
        pieces, said = read(fmt.parser(ids_of(spelled, tokenizer.decode(prompt)), TOOLS), ids_of(spelled, text))
        expected = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        assert (said.thinking or "", said.text) == (message.get("reasoning_content", ""), message["content"]), text
        assert calls_of(said) == expected and len(pieces) >= bool(said.text or said.thinking)


def marks_of(name: str) -> list[str]:
    tags = ReplyFormat.of(tokenizer_for(name)).style.tags
    if tags is None:
        return list(HARMONY)
    around = [mark for call in tags.calls for mark in (call.start, call.end) if mark]
    return [*tags.think, *tags.layout, *tags.inner, *around]


def test_python_calls_come_back() -> None:
    """Luopan's second spelling of calls."""
    name, fmt = "luopan", ReplyFormat.of(tokenizer_for("luopan"))
    arguments = {"python_tools": "def weather(place, days=None): ...\ndef add(a: int, b: int) -> int: ..."}
    draw = random.Random(0)
    for number in range(80):
        message = some_message(draw, thinking=bool(number % 2), calls=1 + number % 2, beside=True)
        for call in message["tool_calls"]:
            values = list(call["function"]["arguments"].values())
            call["function"]["arguments"] = dict(zip("abc", values))
        prompt, tokens = written(name, message, arguments=arguments)
        _, said = read(fmt.parser(prompt, arguments=arguments), tokens)
        expected = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
        assert (calls_of(said), said.faults, said.text) == (expected, [], message["content"])
    body = '<code>\nadd(1, b=2)\nos.system("rm")\n</code>'
    broken = parsed(name, body, arguments=arguments)
    assert broken.text == body and "os.system" in broken.faults[0].reason


# ------------------------------------------------------------------------------------------ what is asked, what is said


@pytest.mark.parametrize("name", TEMPLATES)
def test_typed_marks_are_text_where_the_vocabulary_has_tokens_for_them(name: str) -> None:
    """A model may write about the marks of its own format."""
    tokens_of = tokenizer_for(name).get_vocab()
    typed = [mark for mark in marks_of(name) if mark in tokens_of]
    if name == "deepseek-r1":
        assert len(typed) == 7
    content = "x " + " and ".join(typed) + ' {"name": "add"}'
    prompt, tokens = written(name, {"role": "assistant", "content": content})
    assert len({tokens_of[mark] for mark in typed} & set(tokens)) < max(3, len(typed)), "only the format's own"
    said = ReplyFormat.of(tokenizer_for(name)).parse(tokens, prompt, TOOLS)
    assert (said.text, said.tool_calls, said.faults) == (content, [], [])


def test_a_tag_in_an_answer_that_begins_no_call_goes_on_as_text() -> None:
    """At once, not only when the reply is over."""
    tokenizer = tokenizer_for("luopan")
    parser = ReplyFormat.of(tokenizer).parser(tools=TOOLS)
    text = "Write <tool_call> around it: <tool_call>"
    shown = "".join(piece for token in ids_of(tokenizer, text) for piece in parser.push(token))
    assert shown == "Write <tool_call> around it: "
    rest = '{"name": "add", "arguments": {"a": "</tool_call>"}}</tool_call> Done.'
    shown += "".join(piece for token in ids_of(tokenizer, rest) for piece in parser.push(token))
    assert shown == "Write <tool_call> around it:  Done." and parser.tool_calls[0].name == "add"


def test_thinking_that_the_prompt_has_opened() -> None:
    for tail, opened in (("<think>\n", True), ("<think>", True), ("<think>\n\n</think>\n\n", False), ("", False)):
        said = parsed("qwen3", "so\n</think>\n\nYes.", f"<|im_start|>assistant\n{tail}")
        assert said.thinking == ("so" if opened else None)
        assert said.text == ("Yes." if opened else "so\n</think>\n\nYes.")
    assert parsed("deepseek-r1", "</think>\n\nYes.", "<｜Assistant｜><think>\n").thinking == ""
    assert parsed("command-a", "so<|END_THINKING|>Yes.", "<|CHATBOT_TOKEN|><|START_THINKING|>").thinking == "so"
    assert parsed("gpt-oss", "<|message|>so<|end|>", "<|start|>assistant<|channel|>analysis").thinking == "so"
    assert parsed("gpt-oss", "Yes.", "<|start|>assistant<|channel|>final<|message|>").text == "Yes."


@pytest.mark.parametrize(
    ("name", "text", "thinking", "answer"),
    [
        ("qwen3", "<think>never closed </thi", "never closed </thi", ""),
        ("qwen3", "<thin", None, "<thin"),
        ("qwen3", "a <think>b</think>", None, "a <think>b</think>"),
        ("llama3", "<think>\na\n</think>\nb", "a", "b"),
        ("command-a", "<|START_THINKING|>a<|START_RESPONSE|>\n\nb<|END_RESPONSE|>", "a", "\n\nb"),
        ("command-a", "plain", None, "plain"),
        ("gpt-oss", "<|channel|>analysis<|message|>a", "a", ""),
        ("gpt-oss", "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>", "a", "b"),
        ("gpt-oss", "<|channel|>anal", None, ""),
        ("gpt-oss", "plain", None, "plain"),
        ("gpt-oss", "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>b",
         None, "I look.\n\nb"),
        ("gpt-oss", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>",
         "a\n\nb", ""),
    ],
)  # fmt: skip
def test_replies_that_are_not_quite_in_order(name: str, text: str, thinking: str | None, answer: str) -> None:
    prompt = "<|start|>assistant" if name == "gpt-oss" else ""
    said = parsed(name, text, prompt, tools=TOOLS)
    assert (said.thinking, said.text, said.tool_calls) == (thinking, answer, [])


CALLS = {
    "luopan": '<tool_call>{"name": %s, "arguments": %s}</tool_call>',
    "qwen3": '<tool_call>\n{"name": %s, "arguments": %s}\n</tool_call>',
    "llama3": '{"name": %s, "parameters": %s}',
    "command-a": '<|START_ACTION|>[{"tool_call_id": "7", "tool_name": %s, "parameters": %s}]<|END_ACTION|>',
    "deepseek-r1": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>%s\n```json\n%s\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "gpt-oss": "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>%s<|call|>",
}


def call_text(name: str, called: str, arguments: str) -> str:
    return CALLS[name] % (called if name in ("deepseek-r1", "gpt-oss") else json.dumps(called), arguments)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("called", "arguments", "reason"),
    [
        ("add", '{"a": 1,}', "not valid JSON"),
        ("add", '{"a": 1', "not valid JSON"),
        ("add", "[1, 2]", "must be an object"),
        ("add", "3", "must be an object"),
        ("add", '{"a": NaN}', "NaN"),
        ("add", '{"a": 1e999}', "too large"),
        ("add", '{"a": "\\ud800"}', "lone surrogate"),
        ("add", '{"a": ' + "[" * 5000 + "]" * 5000 + "}", ""),
        ("subtract", "{}", "no tool named 'subtract'"),
    ],
)
def test_a_call_that_is_none_is_text_and_a_fault(name: str, called: str, arguments: str, reason: str) -> None:
    text = call_text(name, called, arguments)
    prompt = "<|start|>assistant" if name == "gpt-oss" else ""
    said = parsed(name, text, prompt, tools=TOOLS)
    body = arguments if name in ("deepseek-r1", "gpt-oss") else text
    assert said.tool_calls == [] and body in said.text and reason in said.faults[0].reason
    assert len(said.faults) == 1 and said.faults[0].text == said.text
    good = parsed(name, call_text(name, "add", '{"a": 1}'), prompt, tools=TOOLS)
    assert calls_of(good) == [("add", {"a": 1})] and good.text == "" and not good.faults


@pytest.mark.parametrize("name", CALLS)
def test_without_tools_a_call_is_text(name: str) -> None:
    prompt = "<|start|>assistant" if name == "gpt-oss" else ""
    text = call_text(name, "add", '{"a": 1}')
    for tools in (None, []):
        said = parsed(name, text, prompt, tools=tools)
        assert said.tool_calls == [] and said.faults == [] and '{"a": 1}' in said.text
    assert calls_of(parsed(name, call_text(name, "anything", "{}"), prompt, tools="any")) == [("anything", {})]


def test_bare_json_that_is_no_call_is_an_answer() -> None:
    for text in ('{"name": "Anna", "age": 3}', '{"a": 1}', "{", '{"nam', '{"name": "add"} x', "{ x }"):
        said = parsed("llama3", text, tools=TOOLS)
        assert (said.text, said.tool_calls, said.faults) == (text, [], [])
    two = parsed("llama3", '{"name": "add", "parameters": {}}; {"name": "add", "parameters": {"a": 1}}', tools=TOOLS)
    assert calls_of(two) == [("add", {}), ("add", {"a": 1})]
    tokenizer = tokenizer_for("llama3")
    parser = ReplyFormat.of(tokenizer).parser(tools=TOOLS)
    shown = "".join(piece for token in ids_of(tokenizer, '{"a": 1, "b') for piece in parser.push(token))
    assert shown == '{"a": 1, "b', "an answer in JSON is not held back"


def test_a_call_that_is_cut_short() -> None:
    cut = parsed("qwen3", 'I look.\n<tool_call>\n{"name": "add", "argu', tools=TOOLS)
    assert cut.text == 'I look.\n<tool_call>\n{"name": "add", "argu' and len(cut.faults) == 1
    unclosed = parsed("qwen3", 'I look.\n<tool_call>\n{"name": "add", "arguments": {}}', tools=TOOLS)
    assert (unclosed.text, calls_of(unclosed)) == ("I look.", [("add", {})])


def test_ids_of_calls() -> None:
    """Their own where the format has them; else the same for the same reply, and never twice."""
    assert parsed("command-a", call_text("command-a", "add", "{}"), tools=TOOLS).tool_calls[0].id == "7"
    twice = call_text("qwen3", "add", "{}") * 2
    first, again, other = (parsed("qwen3", twice, prompt, tools=TOOLS).tool_calls for prompt in ("a", "a", "b"))
    assert first == again and len({call.id for call in (*first, *other)}) == 4
    assert first[0].as_message() == {
        "id": first[0].id, "type": "function", "function": {"name": "add", "arguments": "{}"},
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- stop strings and counts


def test_stop_strings_end_the_answer_and_nothing_else() -> None:
    """They stand in the thinking and in the call, and are cut off the answer, across tokens and across a call."""
    call = '<tool_call>{"name": "weather", "arguments": {"place": "STOP"}}</tool_call>'
    said = parsed("luopan", f"<think>\nSTOP\n</think>\nHi ST{call}OP more STOP", tools=TOOLS, stop=("STOP",))
    assert (said.thinking, said.text, calls_of(said)) == ("STOP", "Hi ", [("weather", {"place": "STOP"})])
    tokenizer = tokenizer_for("luopan")
    parser = ReplyFormat.of(tokenizer).parser(tools=TOOLS, stop=["STOP", "never"])
    states = []
    for token in ids_of(tokenizer, f"STOP and {call}"):
        assert parser.push(token) == []
        states.append(parser.stopped)
    assert states[-1] and parser.finish() == [] and parser.tool_calls == []


def test_thinking_tokens() -> None:
    """From the opening mark to the closing one, or from the beginning where the prompt has opened it."""
    for name, text, prompt, expected in (
        ("qwen3", "<think>\nabc\n</think>\n\nabc", "", "<think>\nabc\n</think>"),
        ("deepseek-r1", "abc\n</think>\n\nabc", "<think>\n", "abc\n</think>"),
        ("qwen3", "abc", "", ""),
        ("gpt-oss", "<|channel|>analysis<|message|>abc<|end|><|start|>assistant<|channel|>final<|message|>abc",
         "<|start|>assistant", "<|channel|>analysis<|message|>abc<|end|>"),
    ):  # fmt: skip
        assert parsed(name, text, prompt).thinking_tokens == len(ids_of(tokenizer_for(name), expected)), name


def test_spaces_of_tokenizers_that_leave_out_the_first() -> None:
    """Where text depends on what stands before it (SentencePiece), a mark stands before it, too."""
    words = {word: number for number, word in enumerate(["<think>", "</think>", "▁a", "▁b"])}
    backend = Tokenizer(WordLevel(words, unk_token="▁a"))
    backend.decoder = Metaspace()
    backend.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer.decode([2, 3]) == "a b"
    fmt = ReplyFormat.of(tokenizer)
    for tokens, thinking, text in (([2, 3], None, "a b"), ([0, 2, 1, 3, 2], " a", " b a")):
        _, said = read(fmt.parser(), tokens)
        assert (said.thinking, said.text) == (thinking, text) and said == fmt.parse(tokens)


def test_special_tokens_of_no_meaning_stay_invisible() -> None:
    tokenizer = tokenizer_for("deepseek-r1")
    text = "a<｜tool▁output▁begin｜>b<｜User｜>c"
    assert parsed("deepseek-r1", text).text == tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True)
    assert parsed("deepseek-r1", text).text == "abc"


def test_a_tokenizer_without_a_template_is_plain_text() -> None:
    tokenizer = bare_tokenizer()
    tokenizer.chat_template = None
    fmt = ReplyFormat.of(tokenizer)
    assert (fmt.name, fmt.thinking, fmt.tools) == ("plain", False, False)
    assert fmt.parse(ids_of(tokenizer, "<tool_call>{}</tool_call>"), tools=TOOLS).text == "<tool_call>{}</tool_call>"


# --------------------------------------------------------------------------------------------- for those who read text


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - THINKLESS))
def test_a_reply_as_text_has_its_thinking_between_tags(name: str) -> None:
    """Verifiers see the answer alone, whatever the template writes."""
    from luopan.evals.verifiers import answer_of, thinking_format

    tokenizer = tokenizer_for(name)
    thought = {"role": "assistant", "content": "It is 4.", "reasoning_content": "two and two is 5?"}
    prompt, tokens = written(name, thought)
    text = reply_text(tokenizer, tokens, prompt)
    assert answer_of(text) == "It is 4." and "two and two is 5?" in text
    assert thinking_format(text, enable_thinking=True).passed
    cut = reply_text(tokenizer, tokens[: tokens.index(ids_of(tokenizer, "?")[0])], prompt)
    assert answer_of(cut) is None, "thinking that was cut short is no answer"
    prompt, tokens = written(name, {"role": "assistant", "content": "It is 4."})
    text = reply_text(tokenizer, tokens, prompt)
    assert text == "It is 4." or name in ("chatml", "qwen3")
    assert thinking_format(text, enable_thinking=False).passed


# ----------------------------------------------------------------------------------------------------------- nonsense

BITS = (
    '{"name": "add", "arguments": {"a": 1}}', '{"name": "add", "parameters": {}}', 'weather(place="x")',
    "<function=add>", "</function>", "<parameter=a>", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>",
    '"', "\\", "{", "}", "[", "]", "\n", "\n\n", " ", "a", "東", "🙂", "<", "<th", "ink>", "</th", "<tool", "_call>",
    "to=functions.add", "analysis", "final", "commentary", "assistant", "json", "function", "```json\n", "\n```",
    "STOP", "ST", "OP",
)  # fmt: skip


def nonsense(draw: random.Random, tokenizer: PreTrainedTokenizerFast, own: list[str]) -> list[int]:
    """Marks, pieces of calls and single tokens in any order."""
    others = {mark for style in KNOWN if style.tags for mark in (*style.tags.think, *style.tags.layout)}
    every = sorted(others.union(HARMONY))
    ids: list[int] = []
    for _ in range(draw.randint(0, 14)):
        kind = draw.random()
        if kind < 0.15:
            ids.append(draw.randrange(len(tokenizer)))
        else:
            chosen = own if kind < 0.55 else every if kind < 0.6 else BITS
            ids += ids_of(tokenizer, draw.choice(chosen))
    return ids


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_comes_is_read_the_same_however_it_comes(name: str) -> None:
    """No crash; piece by piece or at once; what is shown stays; calls are JSON; a stop string is never shown."""
    draw, tokenizer = random.Random(name), tokenizer_for(name)
    fmt = ReplyFormat.of(tokenizer)
    prompts = [[], encode_prompt(tokenizer, PROMPT)]
    if name not in THINKLESS:
        prompts.append(encode_prompt(tokenizer, PROMPT, enable_thinking=True))
    seen = 0
    for _ in range(400):
        calls = [call_text(name, called, "{}") for called in ("add", "weather", "x")] if name in CALLS else []
        ids = nonsense(draw, tokenizer, [*marks_of(name), *calls])
        given: dict[str, Any] = {
            "tools": draw.choice([None, TOOLS, "any"]),
            "stop": draw.choice([(), ("STOP",), ("a", "\n\n")]),
            "arguments": draw.choice([None, {"python_tools": "def weather(place): ..."}]),
        }
        prompt = draw.choice(prompts)
        pieces, said = read(fmt.parser(prompt, **given), ids)
        assert said == fmt.parse(ids, prompt, **given), (tokenizer.decode(ids), given)
        assert all(pieces) and not any(stop in said.text for stop in given["stop"])
        assert all(isinstance(arguments, dict) for _, arguments in calls_of(said))
        begun = fmt.parser(prompt, **given)
        shown = begun.said([piece for token in ids[: len(ids) // 2] for piece in begun.push(token)])
        assert said.text.startswith(shown.text) and (said.thinking or "").startswith(shown.thinking or "")
        assert said.tool_calls[: len(shown.tool_calls)] == shown.tool_calls
        seen += len(said.tool_calls)
    assert seen > 3 or name in CALLLESS
