"""Does everything in a conversation survive rendering? A word in each field of each role must be in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luopan.tokens.lint_probe import Probe, Rendered, around, call, result, says, system, tool, user, word
from luopan.tokens.lint_report import Finding, Severity

_PARTS = re.compile(r"\[?\{'type': ?'text'")
_TOOLS = re.compile(r"\{'type': ?'(?!text)|\{'name': ?'")


@dataclass(frozen=True)
class Case:
    """A conversation, and the words that its text must hold: {field: word}."""

    where: str
    messages: Sequence[Mapping[str, Any]]
    words: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    earlier_thinking: bool = False
    odd: bool = False  # not standard: that the template fails on it is as good as a refusal


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text + "a"}, {"type": "text", "text": text + "b"}]


def _plain() -> Iterator[Case]:
    talk = [system(word("sys")), user(word("u1")), says(word("a1")), user(word("u2")), says(word("a2"))]
    yield Case(
        "conversation", talk[1:],
        {"user content, first": word("u1"), "assistant content, earlier": word("a1"), "user content, later": word("u2"),
         "assistant content, last": word("a2")},
    )  # fmt: skip
    yield Case("system", talk, {"system content, first": word("sys")})
    later = [user(), says(), system(word("mid")), user(), says()]
    yield Case("system, mid-conversation", later, {"system content, mid-conversation": word("mid")})
    both = [system("One."), *later]
    yield Case("system, a second one", both, {"system content, second": word("mid")})
    for name, messages in (
        ("system", [system(_parts("Zqp")), user(), says()]),
        ("user", [user(_parts("Zqp")), says()]),
        ("assistant", [user(), says(_parts("Zqp"))]),
    ):
        yield Case(f"{name}, list content", messages, {f"{name} content, {n} part": f"Zqp{n}" for n in "ab"})
    yield from _odd()
    for name, messages in (
        ("system", [system(""), user(), says()]),
        ("user", [user(""), says()]),
        ("assistant", [user(), says(""), user(), says()]),
    ):
        yield Case(f"{name}, empty content", messages)


def _odd() -> Iterator[Case]:
    """What no standard asks for, but data has."""
    strings = [user([word("s1"), word("s2")]), says()]
    yield Case("user, list of strings", strings, {"user content, a string in a list": word("s1")}, odd=True)
    held = [user({"text": word("o")}), says()]
    yield Case("user, content that is an object", held, {"user content, an object": word("o")}, odd=True)
    strange = [user(), says(), {"role": "critic", "content": word("role")}, user(), says()]
    yield Case("unknown role", strange, {"content of an unknown role": word("role")}, odd=True)


def _thinking() -> Iterator[Case]:
    last = [user(), says(reasoning_content=word("r2"))]
    yield Case("reasoning_content", last, {"reasoning_content, last turn": word("r2")})
    yield Case("reasoning_content, null", [user(), says(reasoning_content=None)])
    earlier = [user(), says(reasoning_content=word("r1")), *last]
    yield Case(
        "reasoning_content, earlier", earlier, {"reasoning_content, earlier turn": word("r1")}, earlier_thinking=True
    )
    inline = [user(), says(f"<think>\n{word('i1')}\n</think>\n\nYes."), user(), says()]
    yield Case("inline thinking", inline, {"<think> in content, earlier turn": word("i1")}, earlier_thinking=True)


def _calls() -> Iterator[Case]:
    tools = [tool()]
    text = f'{{"Zqkeyqz": "{word("val")}"}}'
    for name, arguments in (("an object", {"Zqkeyqz": word("val")}), ("JSON text", text)):
        words = {
            "tool_calls name": "Zqnameqz", f"tool_calls arguments ({name}), key": "Zqkeyqz",
            f"tool_calls arguments ({name}), value": word("val"),
        }  # fmt: skip
        messages = [user(), says("", tool_calls=[call("Zqnameqz", arguments)]), result("rain", "Zqnameqz"), says()]
        yield Case(f"tool_calls, arguments as {name}", messages, words, [tool("other")])
    several = [call("Zqfirstqz", {"a": word("v1")}), call("Zqsecondqz", {"b": word("v2")}, 2)]
    yield Case(
        "tool_calls, several", [user(), says("", tool_calls=several)],
        {"tool_calls, first of several": "Zqfirstqz", "tool_calls, second of several": "Zqsecondqz",
         "arguments of the second call": word("v2")}, tools,
    )  # fmt: skip
    beside = [user(), says(word("beside"), tool_calls=[call("Zqnameqz")])]
    yield Case("tool_calls beside text", beside, {"content beside tool_calls": word("beside")}, tools)
    bare = {"role": "assistant", "tool_calls": [call("Zqnameqz")]}
    for name, message in (("null", says(None, tool_calls=[call("Zqnameqz")])), ("no", bare)):
        yield Case(f"{name} content beside tool_calls", [user(), message], {"tool_calls name": "Zqnameqz"}, tools)
    for name, value in (("null", None), ("empty", [])):
        yield Case(f"tool_calls, {name}", [user(), says(tool_calls=value)])
    start = [user(), says("", tool_calls=[call()])]
    yield Case("tool result", [*start, result(word("result")), says()], {"tool result content": word("result")}, tools)
    listed = [*start, result(_parts("Zqp")), says()]
    yield Case("tool result, list content", listed, {f"tool content, {n} part": f"Zqp{n}" for n in "ab"}, tools)


def _definitions(variables: set[str]) -> Iterator[Case]:
    described = tool(word("tool"), word("about"), "Zqparameterqz", word("parameter"))
    words = {
        "tools name": word("tool"), "tools description": word("about"), "tools parameter": "Zqparameterqz",
        "tools parameter description": word("parameter"),
    }  # fmt: skip
    talk = [user(), says()]
    yield Case("tools", talk, words, [described])
    second = [tool("first"), tool("Zqsecondqz")]
    yield Case("tools, several", talk, {"tools, second of several": "Zqsecondqz"}, second)
    instructed = [system(word("sys")), *talk]
    yield Case("tools beside a system prompt", instructed, {"system content beside tools": word("sys")},
               [described])  # fmt: skip
    yield Case("tools, empty list", talk, tools=[])
    given: dict[str, Any] = {
        "custom_instructions": word("custom"), "metadata": {"Zqnameqz": word("custom")},
        "python_tools": [f"def {word('custom')}(): ..."], "xml_tools": [tool(word("custom"))],
    }  # fmt: skip
    for name, value in given.items():
        if name in variables:
            yield Case(name, talk, {name: word("custom")}, arguments={name: value})
            yield Case(f"{name}, null", talk, arguments={name: None})
    if "system_override" in variables:
        override = {"system_override": word("over")}
        yield Case("system_override", talk, {"system_override": word("over")}, arguments=override)
        beside = [system(word("sys")), *talk]
        yield Case(
            "system_override beside system", beside, {"system beside system_override": word("sys")}, arguments=override
        )
    if "python_tools" in variables:
        functions = {"python_tools": ["def Zqnameqz(key): ..."]}
        code = [user(), says("", tool_calls=[call("Zqcalledqz", {"key": word("val")})]), result("rain"), says()]
        words = {"name of a Python call": "Zqcalledqz", "arguments of a Python call": word("val")}
        yield Case("tool_calls of Python functions", code, words, arguments=functions)
        code = [user(), says("", tool_calls=[call("Zqcalledqz", "{}")])]
        yield Case("tool_calls of Python functions, arguments as JSON text", code, arguments=functions)


def cases(variables: set[str]) -> list[Case]:
    """Every conversation that is tried; `variables` are the names that the template reads from outside."""
    return [*_plain(), *_thinking(), *_calls(), *_definitions(variables)]


def check_fields(probe: Probe) -> Iterator[Finding]:
    """What is dropped, leaked, repeated, wrongly encoded; what is refused, and what the template fails on."""
    refused: dict[str, str] = {}
    plain = probe.render([user(), says()])
    if not plain.usable:
        reason = plain.refused or plain.crashed
        hint = "mend the template: no model can be trained or served with it"
        yield Finding(
            "unusable", "error", "conversation", f"one question and its answer cannot be rendered: {reason}", hint
        )
        return
    keeps_thinking = word("r2") in probe.render([user(), says(reasoning_content=word("r2"))]).text
    for case in cases(probe.variables):
        if case.where == "reasoning_content, earlier" and not keeps_thinking:
            continue  # said once, of the last turn
        done = probe.render(case.messages, tools=case.tools, **case.arguments)
        if done.refused:
            refused[case.where] = done.refused
        elif done.crashed and not case.odd:
            hint = "handle the case, or refuse it with raise_exception and a sentence that says why"
            yield Finding("fails", "warning", case.where, f"the template fails on it: {done.crashed}", hint)
        elif done.usable:
            yield from _missing(case, done)
            yield from _leaks(probe, case, done, plain.text)
            yield from _unclosed(probe, case.where, done.text)
    yield from _pictures(probe)
    for reason in dict.fromkeys(refused.values()):
        listed = ", ".join(where for where, given in refused.items() if given == reason)
        yield Finding("refuses", "info", listed, f"refused, so that nothing is lost silently: {reason}")


def _missing(case: Case, done: Rendered) -> Iterator[Finding]:
    for where, expected in case.words.items():
        count = done.text.count(expected)
        if count > 1 and case.tools is None and not case.arguments:
            hint = "write each message once"
            yield Finding("repeated", "warning", where, f"it stands {count} times in the text", hint, done.text[:160])
        if count:
            continue
        if case.earlier_thinking:
            hint = "keep it where keep_thinking is set, or train on the last turn only (train_on: last_turn)"
            message = "thinking of earlier turns is dropped, in training too"
            yield Finding("thinking-history", "warning", where, message, hint, done.text[-160:])
        else:
            hint = "render it, or refuse it with raise_exception; what is dropped is neither learnt nor obeyed"
            level: Severity = "warning" if case.odd else "error"
            yield Finding("dropped", level, where, "it is not in the text, and nothing is said", hint, done.text[-160:])


def _leaks(probe: Probe, case: Case, done: Rendered, plain: str) -> Iterator[Finding]:
    text = done.text
    nones = text.count("None")
    if nones > plain.count("None") or (nones and "None" not in probe.source):
        hint = "test the value before it is written: {% if value %}"
        yield Finding("leaked", "error", case.where, "the word None is written into the text", hint,
                      around(text, text.index("None")))  # fmt: skip
    if leak := _PARTS.search(text):
        hint = "join the text parts of a list, as the shipped templates do"
        yield Finding("leaked", "error", case.where, "a Python list is written into the text", hint,
                      around(text, leak.start()))  # fmt: skip
    if leak := _TOOLS.search(text) or re.search("{'Zqkeyqz'", text):
        message = "an object is written as Python shows it, which is no JSON"
        yield Finding(
            "python-repr", "warning", case.where, message, "write it with | tojson", around(text, leak.start())
        )
    if (at := text.find('\\"Zqkeyqz')) >= 0:
        hint = "write arguments that are text as they are: {{ a if a is string else a | tojson }}"
        yield Finding("double-encoded", "warning", case.where, "arguments given as JSON text are encoded twice", hint,
                      around(text, at))  # fmt: skip


def _unclosed(probe: Probe, where: str, text: str) -> Iterator[Finding]:
    """Tags such as `<tool_call>` must be closed where the template knows how to close them, and calls be whole JSON."""
    for name in sorted(set(re.findall(r"</([a-z_]+)>", probe.source))):
        opened, closed = len(re.findall(rf"<{name}[>=\s]", text)), text.count(f"</{name}>")
        if opened != closed:
            message = f"<{name}> is written {opened} times, </{name}> {closed} times"
            hint = "open and close a block under the same condition"
            yield Finding("unclosed", "warning", where, message, hint, around(text, max(0, text.find(f"<{name}"))))
    for found in re.finditer(r'\{"name": "Zqnameqz"', text):
        try:
            json.JSONDecoder().raw_decode(text, found.start())
        except ValueError as error:
            message = f"a tool call is no JSON: {error}"
            yield Finding(
                "bad-json", "error", where, message, "write an object, its braces closed", text[found.start() :][:120]
            )


def _pictures(probe: Probe) -> Iterator[Finding]:
    """A part that is not text must leave a trace, or be refused."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "Zqpqz"}]
    bare = probe.render([user(parts), says()])
    done = probe.render([user([*parts, {"type": "image", "image": "a.png"}]), says()])
    if bare.usable and done.usable and "Zqpqz" in done.text and bare.text == done.text:
        hint = "refuse it with raise_exception: a question about a picture that is not there teaches to invent"
        yield Finding("dropped", "error", "user content, a picture", "it leaves no trace, and nothing is said", hint)
