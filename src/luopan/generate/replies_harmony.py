"""Replies in Harmony, the format of gpt-oss: messages in channels.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>`. What is in the channel
analysis is thinking; a message `to=functions.NAME` is a call; all other text is answer, the words in front of a call
(commentary without a recipient) too. Source: OpenAI's description of the format, "openai-harmony".
"""

from __future__ import annotations

import re
from typing import Literal

from luopan.generate.replies_calls import Call, Offered, as_object, load_json
from luopan.generate.replies_out import Out
from luopan.generate.replies_scanner import Mark

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
CONSTRAIN, RETURN, CALL = "<|constrain|>", "<|return|>", "<|call|>"
HARMONY = (START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL)
_FUNCTIONS = "functions."
# What may follow "assistant" in a header before the channel, whole or not yet.
_ROUTE = re.compile(r"\s*(?:a|as|ass|assi|assis|assist|assista|assistan|assistant)?\s*(?:t|to|to=\S*)?\s*")

State = Literal["header", "thinking", "answer", "call", "between"]


class HarmonyMachine:
    """Reads one reply. `header`: what the prompt has written of the first message's header, without the start."""

    def __init__(self, out: Out, *, header: str, tokens: frozenset[str]) -> None:
        self._out, self._tokens = out, tokens
        self._header, self._given = header, len(header)
        self._strict = True  # a first header that is none is an answer without any
        self._state: State = "header"
        self._name = self._body = ""
        self._answered = False
        if MESSAGE in header:  # the prompt has begun the message itself
            self._header = header.partition(MESSAGE)[0]
            self._begin()

    @property
    def thinks(self) -> bool | None:
        """Whether what comes is thinking; None while it is not known."""
        return None if self._state in ("header", "between") else self._state == "thinking"

    @property
    def answers(self) -> bool:
        """Whether an answer has begun."""
        return self._answered

    @property
    def settled(self) -> bool:
        """Whether no thinking can come any more: never sure."""
        return False

    def watched(self) -> tuple[str, ...]:
        """The marks that are looked for in text now."""
        return tuple(mark for mark in HARMONY if mark not in self._tokens)

    def take(self, event: str | Mark) -> None:
        """The next text or mark."""
        if isinstance(event, Mark):
            self._take_mark(event.text)
            return
        match self._state:
            case "header":
                self._take_header(event)
            case "between":
                if event.strip():
                    self._begin_answer()
                    self._out.answer(event)
            case "thinking":
                self._out.thinking(event)
            case "answer":
                self._out.answer(event)
            case "call":
                self._body += event

    def finish(self) -> None:
        """The reply is over. Of a header without a message nothing is shown."""
        self._close()

    def _take_header(self, text: str) -> None:
        self._header += text
        written = self._header[self._given :]
        if self._strict and CHANNEL not in self._header and not _ROUTE.fullmatch(written):
            self._begin_answer()
            self._out.answer(written)

    def _take_mark(self, mark: str) -> None:
        if mark == MESSAGE and self._state == "header":
            self._begin()
        elif mark in (CHANNEL, CONSTRAIN) and self._state == "header":
            self._header += mark
        elif mark == START:
            self._close()
            self._header, self._given, self._strict, self._state = "", 0, False, "header"
        elif mark == CHANNEL:  # the end of a message and the start of the next were forgotten
            self._close()
            self._header, self._given, self._strict, self._state = CHANNEL, 0, False, "header"
        elif mark in (END, RETURN, CALL):
            self._close()

    def _begin(self) -> None:
        """A message begins: by its header it is thinking, a call or answer."""
        channel = re.search(r"<\|channel\|>\s*(\w+)", self._header)
        recipient = re.search(r"(?:^|[\s>])to=([^\s<]+)", self._header)
        name = recipient[1].removeprefix(_FUNCTIONS) if recipient else ""
        thinks = channel is not None and channel[1] == "analysis"
        meant = recipient is not None and (recipient[1].startswith(_FUNCTIONS) or self._out.offered.knows(name))
        self._body = ""
        if meant and self._out.offered:
            self._state, self._name = "call", name
        elif thinks:
            self._state = "thinking"
            self._out.begin_thinking()
        else:
            self._begin_answer()

    def _begin_answer(self) -> None:
        if self._answered:
            self._out.answer("\n\n")  # between the words in front of a call and the answer
        self._state, self._answered = "answer", True

    def _close(self) -> None:
        """A message is over."""
        if self._state == "call":
            name = self._name

            def read(body: str, offered: Offered) -> list[Call]:
                return offered.checked([Call(name, as_object(load_json(body)))])

            self._out.call(f"{self._header}{MESSAGE}{self._body}", self._body, read)
        self._state, self._body = "between", ""
