"""Does everything in a conversation survive rendering? A word in each field of each role must be in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luopan.tokens.lint_probe import Probe, Rendered, around, call, result, says, system, tool, user, word
from luopan.tokens.lint_report import Finding

_LEAKS = re.compile(r"[\[{]\{?'type': ?'")


@dataclass(frozen=True)
class Case:
    """A conversation, and the words that its text must hold: {field: word}."""

    where: str
    messages: Sequence[Mapping[str, Any]]
    words: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    earlier_thinking: bool = False


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
    for name, messages in (
        ("system", [system(""), user(), says()]),
        ("user", [user(""), says()]),
        ("assistant", [user(), says(""), user(), says()]),
    ):
        yield Case(f"{name}, empty content", messages)


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
    yield Case("tools beside a system prompt", [system(word("sys")), *talk], {"system content beside tools": word("sys")},
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


def cases(variables: set[str]) -> list[Case]:
    """Every conversation that is tried; `variables` are the names that the template reads from outside."""
    return [*_plain(), *_thinking(), *_calls(), *_definitions(variables)]


def check_fields(probe: Probe) -> Iterator[Finding]:
    """Rules `dropped`, `thinking-history`, `leaked`, `python-repr`, `double-encoded`, `fails`, `refuses`, `repeated`."""
    refused: dict[str, str] = {}
    plain = probe.render([user(), says()])
    if not plain.usable:
        reason = plain.refused or plain.crashed
        hint = "mend the template: no model can be trained or served with it"
        yield Finding(
            "unusable", "error", "conversation", f"one question and its answer cannot be rendered: {reason}", hint
        )
        return
    for case in cases(probe.variables):
        done = probe.render(case.messages, tools=case.tools, **case.arguments)
        if done.refused:
            refused[case.where] = done.refused
        elif done.crashed:
            hint = "handle the case, or refuse it with raise_exception and a sentence that says why"
            yield Finding("fails", "warning", case.where, f"the template fails on it: {done.crashed}", hint)
        else:
            yield from _missing(case, done)
            yield from _leaks(probe, case, done, plain.text)
    if refused:
        listed = "; ".join(f"{where} ({reason})" for where, reason in refused.items())
        yield Finding("refuses", "info", ", ".join(refused), f"refused in words, so nothing is lost silently: {listed}")


def _missing(case: Case, done: Rendered) -> Iterator[Finding]:
    for where, expected in case.words.items():
        count = done.text.count(expected)
        if count > 1:
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
            yield Finding(
                "dropped", "error", where, "it is not in the text, and nothing is said", hint, done.text[-160:]
            )


def _leaks(probe: Probe, case: Case, done: Rendered, plain: str) -> Iterator[Finding]:
    text = done.text
    nones = text.count("None")
    if nones > plain.count("None") or (nones and "None" not in probe.source):
        hint = "test the value before it is written: {% if value %}"
        yield Finding("leaked", "error", case.where, "the word None is written into the text", hint,
                      around(text, text.index("None")))  # fmt: skip
    if leak := _LEAKS.search(text):
        if "content" in case.where:
            hint = "join the text parts of a list, as the shipped templates do"
            yield Finding("leaked", "error", case.where, "a Python list is written into the text", hint,
                          around(text, leak.start()))  # fmt: skip
        elif case.tools or case.arguments:
            yield _python(case.where, text, leak.start())
    elif (at := text.find("{'Zqkeyqz'")) >= 0:
        yield _python(case.where, text, at)
    if (at := text.find('\\"Zqkeyqz')) >= 0:
        hint = "write arguments that are text as they are: {{ a if a is string else a | tojson }}"
        yield Finding("double-encoded", "warning", case.where, "arguments given as JSON text are encoded twice", hint,
                      around(text, at))  # fmt: skip


def _python(where: str, text: str, at: int) -> Finding:
    message = "an object is written as Python shows it, which is no JSON"
    return Finding("python-repr", "warning", where, message, "write it with | tojson", around(text, at))
