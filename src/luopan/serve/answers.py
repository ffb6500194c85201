"""From a generation's tokens to what an API answers: text, thinking, tool calls, log-probabilities, how it ended.

The only module of the server that knows the engine's and the parsers' interfaces for this. It runs in the event loop,
beside the worker's thread: matrix products hold no lock of the interpreter, so text costs the worker little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from luopan.generate.detokenize import TextStream
from luopan.generate.engine import FinishReason
from luopan.generate.thinking import ThinkingSplitter
from luopan.serve.prepare import Prepared
from luopan.serve.ticket import Heard

Kind = Literal["thinking", "answer"]


class Parser(Protocol):
    """What reads tokens: `luopan.generate.replies.ReplyParser` for chats, `PlainText` for completions."""

    @property
    def tool_calls(self) -> Sequence[Any]:
        """Calls that are complete."""

    @property
    def thinking_tokens(self) -> int:
        """How many tokens were thinking."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the reply."""

    def push(self, token: int) -> Sequence[Any]:
        """Pieces that are certain now."""

    def finish(self) -> Sequence[Any]:
        """The rest."""


class PlainText:
    """Text as it is."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._stream = TextStream(tokenizer, stop)
        self.tool_calls: list[Any] = []
        self.thinking_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stream.stopped

    def push(self, token: int) -> list[str]:
        """What is certain now."""
        return [text] if (text := self._stream.push(token)) else []

    def finish(self) -> list[str]:
        """The rest."""
        return [text] if (text := self._stream.finish()) else []


@dataclass
class Update:
    """What some tokens have added to an answer. `heard`: the tokens of the new text; `calls`: those complete now.
    `finish_reason` is set on the last."""

    thinking: str = ""
    text: str = ""
    heard: list[Heard] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.thinking or self.text or self.calls or self.heard or self.finish_reason)

    def add(self, more: Update) -> None:
        """What came after."""
        self.thinking += more.thinking
        self.text += more.text
        self.heard += more.heard
        self.calls += more.calls
        self.finish_reason = more.finish_reason or self.finish_reason


class Answer:
    """One choice, fed with tokens. `ends`: tokens that end it. `first_call_only`: end behind the first tool call.

    After `done` whatever comes is left out, so that an answer does not depend on how soon its worker heard of its end.
    """

    def __init__(self, parser: Parser, ends: frozenset[int], *, first_call_only: bool = False) -> None:
        self._parser, self._ends, self._first_call_only = parser, ends, first_call_only
        self._waiting: list[Heard] = []  # tokens whose text is not out yet
        self._called = 0
        self._logprob_sum = 0.0
        self.tokens = 0
        self.done = False

    @property
    def thinking_tokens(self) -> int:
        """How many of the tokens were thinking."""
        return self._parser.thinking_tokens

    @property
    def mean_logprob(self) -> float:
        """Of its tokens."""
        return self._logprob_sum / max(1, self.tokens)

    def take(self, heard: Sequence[Heard], reason: FinishReason | None) -> Update:
        """Add tokens; `reason`: how the engine ended the generation, if it did."""
        update = Update()
        if self.done:
            return update
        for item in heard:
            self.tokens += 1
            self._logprob_sum += item.logprob
            if self._push(item, update):
                self._end(update, "stop")
                return update
        if reason is not None:
            self._end(update, "length" if reason == "length" else "stop")
        return update

    def _push(self, item: Heard, update: Update) -> bool:
        """Whether the answer ends here."""
        if item.token in self._ends:
            return True
        before = self._parser.thinking_tokens
        pieces = self._parser.push(item.token)
        if self._parser.thinking_tokens == before:
            self._waiting.append(item)
        self._say(update, pieces)
        new = self._parser.tool_calls[self._called :]
        self._called += len(new)
        update.calls += new[:1] if self._first_call_only else new
        return self._parser.stopped or (self._first_call_only and bool(new))

    def _say(self, update: Update, pieces: Sequence[Any]) -> None:
        for piece in pieces:
            if getattr(piece, "thinking", False):
                update.thinking += piece
            else:
                update.text += piece
                update.heard += self._waiting
                self._waiting = []

    def _end(self, update: Update, reason: str) -> None:
        stopped = self._parser.stopped
        self._say(update, self._parser.finish())
        if not self._first_call_only or not self._called:
            new = self._parser.tool_calls[self._called :]
            self._called += len(new)
            update.calls += new[:1] if self._first_call_only else new
        if not stopped:  # tokens behind a stop string have no text
            update.heard += self._waiting
        self._waiting = []
        self.done = True
        update.finish_reason = "tool_calls" if self._called and reason == "stop" else reason


class _TaggedText:
    """Thinking between tags, then the answer."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._stream, self._splitter = TextStream(tokenizer, stop), ThinkingSplitter()
        self.tool_calls: list[Any] = []
        self.thinking_tokens = 0

    @property
    def stopped(self) -> bool:
        return self._stream.stopped

    def push(self, token: int) -> list[Any]:
        pieces = self._splitter.push(self._stream.push(token))
        self.thinking_tokens += any(piece.thinking for piece in pieces)
        return pieces

    def finish(self) -> list[Any]:
        return [*self._splitter.push(self._stream.finish()), *self._splitter.finish()]


def answer_parser(tokenizer: Any, prepared: Prepared) -> Parser:
    """What reads this model's replies."""
    return _TaggedText(tokenizer, prepared.stop)
