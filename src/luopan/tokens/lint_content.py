"""Does content come through as it is? Its middle unchanged, empty turns kept, arguments beside a system prompt.

`lint_fields` looks for one word per field; a template can keep the word and still spoil what stands round it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luopan.tokens.lint_probe import Probe, around, call, result, says, system, tool, user, word
from luopan.tokens.lint_report import Finding
from luopan.tokens.lint_spans import turn_end

_FIRST, _LAST = "Zqfirstqz", "Zqlastqz"
# Quotes and brackets that escaping would change, line breaks and runs of spaces that tidying would, and length.
_SAID = f"{_FIRST} \"a\" <b> & 'c' é\n\n\tx = 1  # y\\n\n{'long ' * 200}{_LAST}"
_ARGUMENTS: Mapping[str, Any] = {"custom_instructions": word("custom"), "metadata": {"Zqnameqz": word("custom")}}


def check_content(probe: Probe) -> Iterator[Finding]:
    """Content changed on the way, turns that vanish when empty, arguments that hide the system prompt, tool names."""
    yield from _altered(probe)
    yield from _empty(probe)
    yield from _beside_system(probe)
    yield from _developer(probe)
    yield from _tool_names(probe)


def _altered(probe: Probe) -> Iterator[Finding]:
    called = [user(), says("", tool_calls=[call()])]
    hint = "write content as it is, without filters that escape, cut or replace"
    for where, messages, tools in (
        ("system content", [system(_SAID), user(), says()], None),
        ("user content", [user(_SAID), says()], None),
        ("assistant content", [user(), says(_SAID)], None),
        ("assistant content, earlier", [user(), says(_SAID), user(), says()], None),
        ("reasoning_content", [user(), says(reasoning_content=_SAID)], None),
        ("tool content", [*called, result(_SAID), says()], [tool()]),
    ):
        text = probe.render(messages, tools=tools).text
        forms = [_SAID]
        if where == "tool content":  # a format may put results into JSON
            forms += [json.dumps(_SAID)[1:-1], json.dumps(_SAID, ensure_ascii=False)[1:-1]]
        if (at := text.find(_FIRST)) >= 0 and not any(form in text for form in forms):
            message = "content is changed on its way into the text: escaped, cut short, or its line breaks replaced"
            yield Finding("altered", "error", where, message, hint, around(text, at + 60))


def _empty(probe: Probe) -> Iterator[Finding]:
    """A turn that says nothing is still a turn: without it two turns of one role follow each other."""
    hint = "test for what must be left out ({% if content is not none %}), not for what is empty"
    begun = [user(), says("", tool_calls=[call()])]
    filler, end = word("empty"), turn_end(probe)
    for where, before, message, after, tools in (
        ("user", [user(), says()], user, [says()], None),
        ("assistant", [user()], says, [user(), says()], None),
        ("tool", begun, result, [says()], [tool()]),
    ):
        full = probe.render([*before, message(filler), *after], tools=tools)
        empty = probe.render([*before, message(""), *after], tools=tools)
        if not (full.usable and empty.usable) or filler not in full.text:
            continue
        # A format may leave out what wraps an answer; what must stay is the header and the token that ends the turn.
        if _turns(empty.text, end) < _turns(full.text, end):
            text = "a message with empty content takes its whole turn with it"
            yield Finding("empty-vanishes", "error", f"{where}, empty content", text, hint, empty.text[-160:])


def _turns(text: str, end: str) -> int:
    """How many turns are closed; where no token closes them, how much text there is beside white space and words."""
    return text.count(end) if end else len(re.sub(r"\s+|Zq\w+?qZ", "", text))


def _beside_system(probe: Probe) -> Iterator[Finding]:
    """Custom instructions, given or null, must not take the place of the system message unsaid."""
    talk = [system(word("sys")), user(), says()]
    for name, value in _ARGUMENTS.items():
        # A template that sets a variable of that name overwrites what it is given, so it may read none from outside.
        if name not in probe.variables and not re.search(rf"set {name}\b", probe.source):
            continue
        hint = f"write both, or refuse a system message beside {name} with raise_exception"
        for how, given, words in (
            (f"{name}: null", None, {"system content": word("sys")}),
            (name, value, {"system content": word("sys"), name: word("custom")}),
        ):
            arguments: dict[str, Any] = {name: given}
            done = probe.render(talk, **arguments)
            for what, expected in words.items():
                if done.usable and expected not in done.text:
                    where = f"{what}, with {how}" if what != name else f"{name}, with a system message"
                    message = "one hides the other, and nothing is said"
                    yield Finding("dropped", "error", where, message, hint, done.text[:160])


def _developer(probe: Probe) -> Iterator[Finding]:
    """The newer name of the system role; only where the template has heard of it (else: an unknown role)."""
    if not re.search(r"""["']developer["']""", probe.source):
        return
    told = word("developer")
    done = probe.render([{"role": "developer", "content": told}, user(), says()])
    if done.usable and told not in done.text:
        hint = "render it, or refuse it with raise_exception; what is dropped is neither learnt nor obeyed"
        yield Finding("dropped", "error", "developer content", "it is not in the text, and nothing is said", hint)


def _tool_names(probe: Probe) -> Iterator[Finding]:
    """Whether results say whose they are; a null name must not be printed."""
    calls = [call("Zqoneqz"), call("Zqtwoqz", number=2)]
    texts: list[str] = []
    for names in (("Zqoneqz", "Zqtwoqz"), ("Zqtwoqz", "Zqoneqz")):
        results: Sequence[dict[str, Any]] = [result("r1", names[0]), result("r2", names[1], 2)]
        texts.append(probe.render([user(), says("", tool_calls=calls), *results, says()], tools=[tool()]).text)
    if texts[0] and texts[0] == texts[1] and "r2" in texts[0] and not re.search(r"call0000[12].*r1", texts[0], re.S):
        message = "results of several calls are told apart by their order alone: `name` is not written"
        yield Finding("tool-order", "info", "tool name", message, "keep results in the order of the calls")
    nameless = {"role": "tool", "name": None, "tool_call_id": None, "content": "rain"}
    text = probe.render([user(), says("", tool_calls=[call()]), nameless, says()], tools=[tool()]).text
    named = probe.render([user(), says("", tool_calls=[call()]), result("rain"), says()], tools=[tool()]).text
    if text.count("None") > named.count("None"):
        hint = "test the value before it is written: {% if value %}"
        message = "the word None is written into the text"
        yield Finding("leaked", "error", "tool name, null", message, hint, around(text, text.index("None")))
