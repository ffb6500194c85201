"""Which format a template of unknown origin writes, found by trying.

The template is given a conversation with marked words in the thinking and in a tool call, and what it writes is read
by one format after the other, through the model's own tokenizer. The first that gives the words back is the format: a
known one, or one made of the marks that stand around the words. Where none does, thinking between `<think>` and
`</think>` at the beginning is read still, and calls stay text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.generate.replies_formats import KNOWN, PLAIN, PYTHON_CALLS, Style
from luopan.generate.replies_parts import Said
from luopan.generate.replies_tagged import THINK, CallTags, Tags
from luopan.tokens.lint_probe import Probe, call, says, tool, user

THOUGHT, ANSWER = "Zqthoughtqz", "Zqanswerqz"
_FIRST, _SECOND = ("Zqtoolqz", {"town": "Ulm"}), ("Zqotherqz", {"town": "Linz"})
_TOOLS = [tool(name) for name, _ in (_FIRST, _SECOND)]
_TAG = r"(?:<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_]{1,40}\])"
Read = Callable[[Style, "Written"], Said]


@dataclass(frozen=True)
class Written:
    """What a template wrote as an answer, after which prompt; `calls` are those it was given."""

    prompt: str
    text: str
    calls: tuple[tuple[str, dict[str, str]], ...] = ()


def probed_style(tokenizer: PreTrainedTokenizerFast, source: str, read: Read) -> Style:
    """The style of a template's replies. `read` reads what was written by a style. Never fails."""
    try:
        probe = Probe(tokenizer, source)
    except LuopanError:
        return PLAIN
    thought, called = _thinking(probe), _calls(probe)
    if "<|channel|>" in source and "<|message|>" in source:
        harmony = next(style for style in KNOWN if style.tags is None)
        if any(written and _fits(read(harmony, written), written) for written in (thought, called)):
            return harmony
    think = next(
        (pair for pair in _think_pairs(thought) if thought and _fits(read(_styled(think=pair), thought), thought)), None
    )
    mentioned = think is None and THINK[1] in source
    found = Style("probed", Tags(think=think or THINK), thinking=think is not None or mentioned, tools=False)
    if called:
        for tags in _call_tags(called, think or THINK):
            if _fits(read(_styled(tags), called), called):
                separator = _separator(probe, tags)
                found = replace(found, tags=replace(tags, separator=separator), tools=True)
                break
    if "python_tools" in source and found.tags is not None:
        found = replace(found, tags=replace(found.tags, calls=(*found.tags.calls, PYTHON_CALLS)), tools=True)
    return found if found.tools or found.thinking else PLAIN


def _styled(tags: Tags | None = None, think: tuple[str, str] | None = None) -> Style:
    tags = tags or next((s.tags for s in KNOWN if s.tags and s.tags.think == think), None) or Tags()
    return Style("probed", replace(tags, think=think) if think else tags)


def _fits(said: Said, written: Written) -> bool:
    """Whether a reply was read as what the template had been given."""
    calls = [(found.name, json.loads(found.arguments)) for found in said.tool_calls]
    if written.calls:
        return calls == [(name, arguments) for name, arguments in written.calls] and not said.text.strip()
    return not calls and said.thinking == THOUGHT and said.text.strip() == ANSWER


def _thinking(probe: Probe) -> Written | None:
    names = ("reasoning_content", "reasoning", "thinking")
    for keys in (("reasoning_content",), names):
        answer = says(ANSWER, **dict.fromkeys(keys, THOUGHT))
        if (written := _written(probe, answer)) and THOUGHT in written.text:
            return written
    return None


def _calls(probe: Probe) -> Written | None:
    """Two calls in a turn, or one where the template refuses two."""
    for calls in ((_FIRST, _SECOND), (_FIRST,)):
        for form in (dict, json.dumps):  # some templates want arguments as text
            given = [call(name, form(arguments), number) for number, (name, arguments) in enumerate(calls, 1)]
            written = _written(probe, says("", tool_calls=given), tools=_TOOLS)
            if written and all(name in written.text for name, _ in calls):
                return replace(written, calls=calls)
    return None


def _separator(probe: Probe, tags: Tags) -> str:
    """The white space between an answer and a call."""
    written = _written(probe, says(ANSWER, tool_calls=[call(*_FIRST)]), tools=_TOOLS)
    starts = "|".join(re.escape(mark) for mark in (*tags.layout, *(each.start for each in tags.calls)))
    found = re.search(rf"{ANSWER}(\s+)(?:{starts})", written.text) if written and starts else None
    return found[1] if found else ""


def _written(
    probe: Probe, answer: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] | None = None
) -> Written | None:
    """What follows the prompt when this is answered, without the token that ends it."""
    asked = probe.render([user()], prompt=True, tools=tools)
    whole = probe.render([user(), answer], tools=tools)
    if not asked.usable or not whole.usable:
        return None
    prompt, text = asked.text, whole.text
    border = next((i for i, (a, b) in enumerate(zip(prompt, text)) if a != b), min(len(prompt), len(text)))
    if border < len(prompt) and "<" in text[:border] and ">" not in text[text.rindex("<", 0, border) : border]:
        border = text.rindex("<", 0, border)  # prompt and answer part inside of a mark
    body = text[border:].rstrip()
    return Written(text[:border], body.removesuffix(probe.stop_at_end(body)))


def _think_pairs(written: Written | None) -> Iterator[tuple[str, str]]:
    """Marks that may stand around the thinking: known ones, and those that do."""
    if written is None:
        return
    text = written.prompt + written.text
    pairs = [style.tags.think for style in KNOWN if style.tags]
    before, _, after = text.partition(THOUGHT)
    start, end = re.search(rf"{_TAG}(?=\s*\Z)", before), re.match(rf"\s*({_TAG})", after)
    if start and end:
        pairs.append((start[0], end[1]))
    yield from (pair for pair in dict.fromkeys(pairs) if pair[0] in text and pair[1] in text)


def _call_tags(written: Written, think: tuple[str, str]) -> Iterator[Tags]:
    """Formats of calls that may be the one: known ones whose marks occur, and what stands around the call."""
    text = written.text
    for style in KNOWN:
        if style.tags and style.tags.calls and (style.tags.bare or style.tags.calls[0].start in text):
            calls = tuple(each for each in style.tags.calls if not each.python)
            yield replace(style.tags, think=think, calls=calls, separator="")
    around = _around_json(text, written.calls[0][0])
    if around is not None:
        yield Tags(think=think, calls=(around,))
    tags = [tag for tag in re.findall(_TAG, text) if tag not in think]
    if len(tags) > 1:
        closing = f"</{tags[0][1:]}"
        yield Tags(think=think, calls=(CallTags(tags[0], closing if closing in tags else tags[-1]),))


def _around_json(text: str, name: str) -> CallTags | None:
    """The marks around the first JSON value that holds a name."""
    at = text.find(name)
    decoder = json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r"[\[{]", text[:at])):
        try:
            _, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            continue
        start, after = re.search(rf"{_TAG}(?=\s*\Z)", text[:place]), re.match(rf"\s*({_TAG})", text[end:])
        if end > at and start:
            return CallTags(start[0], after[1] if after else "")
    return None
