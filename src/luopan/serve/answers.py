"""From a generation's tokens to what an API answers: text, thinking, tool calls, log-probabilities, how it ended.

The only module of the server that knows the engine's and the parsers' interfaces for this. It runs in the event loop,
beside the worker's thread: matrix products hold no lock of the interpreter, so text costs the worker little.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from luopan.generate.engine import FinishReason
from luopan.generate.replies import Piece, ReplyFormat, ReplyParser, ToolCall
from luopan.generate.replies_text import TextReader
from luopan.serve.prepare import Prepared
from luopan.serve.ticket import Heard
from luopan.serve.token_bytes import TokenBytes


class Parser(Protocol):
    """What reads tokens: `luopan.generate.replies.ReplyParser` for chats, `PlainText` for completions."""

    @property
    def tool_calls(self) -> Sequence[ToolCall]:
        """Calls that are complete."""

    @property
    def thinking_tokens(self) -> int:
        """How many tokens were thinking."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the reply."""

    def push(self, token: int) -> Sequence[Piece]:
        """Pieces that are certain now."""

    def finish(self) -> Sequence[Piece]:
        """The rest."""


class PlainText(TextReader):
    """A completion: text as it is."""

    tool_calls: Sequence[ToolCall] = ()
    thinking_tokens = 0


@dataclass
class Update:
    """What some tokens have added to an answer. `heard`: the tokens of the new text; `calls`: those complete now.
    `finish_reason` is set on the last."""

    thinking: str = ""
    text: str = ""
    heard: list[Heard] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
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


async def gathered(source: AsyncGenerator[tuple[int, Update], None], count: int) -> list[Update]:
    """All that comes of `count` answers, put together."""
    found = [Update() for _ in range(count)]
    async with aclosing(source) as updates:
        async for index, update in updates:
            found[index].add(update)
    return found


class Answer:
    """One choice, fed with tokens. `ends`: tokens that end it. `first_call_only`: end behind the first tool call.
    `token_bytes` tells tokens of the layout between thinking and answer from the answer's.

    After `done` whatever comes is left out, so that an answer does not depend on how soon its worker heard of its end.
    """

    def __init__(
        self, parser: Parser, ends: frozenset[int], token_bytes: TokenBytes, *, first_call_only: bool = False
    ) -> None:
        self._parser, self._ends, self._bytes, self._first_call_only = parser, ends, token_bytes, first_call_only
        self._begun = False  # whether there has been text of the answer
        self._waiting: list[Heard] = []  # tokens whose text is not out yet
        self._called = 0
        self._logprob_sum = 0.0
        self.heard: list[Heard] = []  # all of it, the token that ended it included
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
            self.heard.append(item)
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
        self._waiting.append(item)
        if thought := self._parser.thinking_tokens - before:  # more than one where it shows late
            del self._waiting[-thought:]
        self._say(update, pieces)
        self._note_calls(update)
        return self._parser.stopped or (self._first_call_only and self._called > 0)

    def _note_calls(self, update: Update) -> None:
        new = self._parser.tool_calls[self._called :]
        if self._first_call_only:
            new = new[: 1 - self._called]
        if new:
            self._called += len(new)
            update.calls += new
            self._waiting = []  # tokens of calls are none of the text

    def _say(self, update: Update, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.thinking:
                update.thinking += piece
            else:
                if not self._begun:
                    self._leave_layout_out(piece)
                self._begun = True
                update.text += piece
                update.heard += self._waiting
                self._waiting = []

    def _leave_layout_out(self, text: str) -> None:
        """White space before the answer that is none of its text."""
        while self._waiting and not text.startswith(found := self._bytes.text(self._waiting[0].token)):
            if found.strip():
                return
            del self._waiting[0]

    def _end(self, update: Update, reason: str) -> None:
        stopped = self._parser.stopped
        self._say(update, self._parser.finish())
        self._note_calls(update)
        if not stopped:  # tokens behind a stop string have no text
            update.heard += self._waiting
        self._waiting = []
        self.done = True
        update.finish_reason = "tool_calls" if self._called and reason == "stop" else reason


class ForcedCall:
    """A reply whose answer is bound to be a call's JSON (`prepare.call_schema`): it is read whole, at the end.

    JSON that was cut off is no call, and its text is left out: half of a call is no answer either.
    """

    def __init__(self, reply: ReplyParser) -> None:
        self._reply = reply
        self._text = ""
        self.tool_calls: list[ToolCall] = []

    @property
    def thinking_tokens(self) -> int:
        """How many tokens were thinking."""
        return self._reply.thinking_tokens

    @property
    def stopped(self) -> bool:
        """Never: stop strings are no part of such an answer."""
        return False

    def push(self, token: int) -> list[Piece]:
        """The thinking."""
        return self._kept(self._reply.push(token))

    def finish(self) -> list[Piece]:
        """The rest of the thinking; the call is known now."""
        pieces = self._kept(self._reply.finish())
        try:
            said = json.loads(self._text)
            arguments = json.dumps(said["arguments"], ensure_ascii=False)
        except (ValueError, RecursionError):  # cut off, or nested too deeply to be read
            return pieces
        self.tool_calls.append(ToolCall(f"call_{secrets.token_hex(12)}", said["name"], arguments))
        return pieces

    def _kept(self, pieces: Sequence[Piece]) -> list[Piece]:
        self._text += "".join(piece for piece in pieces if not piece.thinking)
        return [piece for piece in pieces if piece.thinking]


def answer_parser(tokenizer: PreTrainedTokenizerFast, prepared: Prepared) -> Parser:
    """What reads this model's replies to the prompt (a chat has one)."""
    form, prompt = ReplyFormat.of(tokenizer), prepared.prompts[0]
    if prepared.forced is not None:
        return ForcedCall(form.parser(prompt))
    return form.parser(prompt, prepared.tools, stop=prepared.stop, arguments=prepared.arguments)
