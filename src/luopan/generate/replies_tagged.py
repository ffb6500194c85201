"""Replies with thinking in front and calls between marks: `<think>…</think>answer<tool_call>…</tool_call>`.

The machine takes text and marks from a scanner and says which marks it looks for; what it makes of them goes to `Out`.
Thinking is looked for at the beginning only, so an answer may write about tags. White space alone between calls, or in
front of the first, is layout. A call's marks are looked for only where tools were offered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from luopan.generate.replies_calls import (
    Call,
    Offered,
    ends_inside_text,
    may_become_bare,
    may_become_call,
    read_calls,
    read_python,
)
from luopan.generate.replies_out import Out
from luopan.generate.replies_parts import NoCallError
from luopan.generate.replies_scanner import Mark

THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class CallTags:
    """The marks around calls. `end` empty: they go on to the end of the reply. `python`: code, in a format that has
    JSON too."""

    start: str
    end: str
    python: bool = False


@dataclass(frozen=True)
class Tags:
    """A format.

    `layout`: marks that mean nothing by themselves. `inner`: marks inside of calls. `separator`: what stands between an
    answer and a call. `bare`: an answer that is JSON of a call is one.
    """

    think: tuple[str, str] = THINK
    calls: tuple[CallTags, ...] = ()
    layout: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    separator: str = ""
    bare: bool = False

    def marks(self, offered: Offered) -> tuple[str, ...]:
        """All marks that count where these tools are offered."""
        calls = self.offered_calls(offered)
        found = [*self.think, *self.layout, *(mark for call in calls for mark in (call.start, call.end) if mark)]
        return tuple(dict.fromkeys([*found, *(self.inner if calls else ())]))

    def offered_calls(self, offered: Offered) -> tuple[CallTags, ...]:
        """The marks of calls that may be made."""
        if not offered:
            return ()
        return tuple(call for call in self.calls if not call.python or offered.python or offered.anything)


State = Literal["start", "think", "margin", "open", "answer", "call", "bare", "after"]


class TaggedMachine:
    """Reads one reply. `tokens`: the marks that are tokens, which are not looked for in text; `back` puts text back."""

    def __init__(
        self, tags: Tags, out: Out, *, opened: bool, tokens: frozenset[str], back: Callable[[str], None]
    ) -> None:
        self._tags, self._out, self._back = tags, out, back
        self._calls = {call.start: call for call in tags.offered_calls(out.offered)}
        self._bare = tags.bare and bool(out.offered)
        self._tokens = tokens
        self._reopens = tags.think[0] in tokens  # a special token may open it again
        self._held = ""  # white space that may be layout, or the beginning of a reply
        self._call = CallTags("", "")
        self._body = ""
        self._state: State = "start"
        if opened:
            self._open_thinking()

    @property
    def thinks(self) -> bool | None:
        """Whether what comes is thinking; None while it is not known."""
        return None if self._state == "start" else self._state == "think"

    @property
    def answers(self) -> bool:
        """Whether the thinking is over, or there was none."""
        return self._state != "think"

    @property
    def settled(self) -> bool:
        """Whether no thinking can come any more."""
        return self._state in ("open", "answer", "call", "bare", "after") and not self._reopens

    def watched(self) -> tuple[str, ...]:
        """The marks that are looked for in text now."""
        if self._state == "think":
            marks = [self._tags.think[1]]
        elif self._state == "call":
            marks = [self._call.end, *self._tags.inner] if self._call.end else []
        elif self._state in ("margin", "open", "answer", "after"):
            marks = [*self._calls, *self._tags.layout]
        else:
            marks = []
        return tuple(mark for mark in marks if mark not in self._tokens)

    def take(self, event: str | Mark) -> None:
        """The next text or mark."""
        if isinstance(event, Mark):
            self._take_mark(event)
            return
        match self._state:
            case "start":
                self._begin(event)
            case "think":
                self._out.thinking(event)
            case "margin":
                if rest := event.lstrip("\n"):
                    self._state = "open"
                    self._back(rest)
            case "open" | "after":
                self._take_space(event)
            case "answer":
                self._answer(event)
            case "call" | "bare":
                self._take_body(event)

    def finish(self) -> None:
        """The reply is over."""
        if self._state in ("call", "bare"):
            self._close("", last=True)
        if self._state in ("start", "open", "answer"):
            self._out.answer(self._held)
        self._held = ""

    def _begin(self, text: str) -> None:
        """Decide, once there is enough text, whether the reply begins with thinking."""
        self._held += text
        stripped, start = self._held.lstrip(), self._tags.think[0]
        if start in self._tokens and not stripped:
            return
        if start not in self._tokens:
            if stripped.startswith(start):
                self._open_thinking()
                self._back(stripped[len(start) :])
                return
            if start.startswith(stripped):
                return
        self._state = "open"
        held, self._held = self._held, ""
        self._back(held)

    def _open_thinking(self) -> None:
        self._state, self._held = "think", ""
        self._out.begin_thinking()

    def _take_space(self, text: str) -> None:
        """The beginning of an answer, or what follows a call: white space waits for what comes."""
        whole = self._held + text
        if self._calls or self._bare:
            if not whole.strip():
                self._held = whole
                return
            if self._bare and self._state == "open" and whole.lstrip().startswith("{"):
                self._state, self._body, self._call, self._held = "bare", "", CallTags("", ""), ""
                self._back(whole)
                return
        self._state, self._held = "answer", ""
        self._answer(whole)

    def _answer(self, text: str) -> None:
        whole, separator = self._held + text, self._tags.separator
        self._held = separator if self._calls and separator and whole.endswith(separator) else ""
        self._out.answer(whole[: len(whole) - len(self._held)])

    def _take_body(self, text: str) -> None:
        self._body += text
        hopeful = may_become_bare if self._state == "bare" else may_become_call
        if len(self._body) > 200 + len(text) or hopeful(self._body):
            return
        # Only text that looks like a mark: what follows the mark is read again, as answer.
        body, said = self._body, "" if self._state == "bare" else self._held + self._call.start
        self._state, self._held, self._body = "answer", "", ""
        self._out.answer(said)
        self._back(body)

    def _take_mark(self, mark: Mark) -> None:
        if self._state == "call":
            if mark.text in self._tags.inner:
                self._body += mark.text
                return
            if mark.text == self._call.end:
                self._close(mark.text)
                return
        if self._state in ("call", "bare"):
            self._close("", last=True)
        if self._state == "think":
            if mark.text == self._tags.think[1]:
                self._state = "margin"
                return
            if mark.text not in self._calls and mark.text not in self._tags.layout:
                self._out.thinking(mark.text if mark.visible else "")
                return
            # An answer or a call begins, and the end of the thinking was forgotten.
            self._state = "margin"
        if self._state == "start" and mark.text == self._tags.think[0] and not self._held.strip():
            self._open_thinking()
        elif mark.text == self._tags.think[0] and not mark.visible:
            self._release()
            self._open_thinking()
        elif mark.text in self._calls:
            if self._state in ("start", "open", "after", "margin"):
                self._held = "" if not self._held.strip() else self._held
            self._state, self._call, self._body = "call", self._calls[mark.text], ""
        elif mark.text in self._tags.layout:
            self._release()
            self._state = "after" if self._state == "after" else "answer"
        elif mark.visible:
            self._out.answer(self._held + mark.text)
            self._state, self._held = "answer", ""

    def _release(self) -> None:
        """Say what was held, unless it is white space around marks."""
        if self._state == "answer" or self._held.strip():
            self._out.answer(self._held)
        self._held = ""

    def _close(self, end: str, last: bool = False) -> None:
        """The body is over: calls, or text after all."""
        read, raw = self._reader(), f"{self._held}{self._call.start}{self._body}{end}"
        if end and end not in self._tokens and ends_inside_text(self._body):
            try:
                read(self._body, self._out.offered)
            except NoCallError:
                self._body += end  # the characters of the mark inside a quoted text
                return
        if self._state == "bare" and not re.search(r'"(?:arguments|parameters)"', self._body):
            self._out.answer(raw)
            called = False
        else:
            called = self._out.call(raw, self._body, read)
        self._state, self._held, self._body = "after" if called else "answer", "", ""

    def _reader(self) -> Callable[[str, Offered], list[Call]]:
        return read_python if self._call.python else read_calls
