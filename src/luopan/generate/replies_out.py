"""Where the parts of a reply are put while it is read: pieces, tool calls, faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256

from luopan.generate.detokenize import StopStrings
from luopan.generate.replies_calls import Call, Offered
from luopan.generate.replies_parts import Fault, Kind, NoCallError, Piece, ToolCall


class Out:
    """Takes thinking, answer and calls in order.

    Line breaks around a stretch of thinking are left out. After a stop string in the answer nothing is taken any more.
    """

    def __init__(self, offered: Offered, stop: Sequence[str], seed: bytes) -> None:
        self.offered = offered
        self.tool_calls: list[ToolCall] = []
        self.faults: list[Fault] = []
        self.thought = False
        self._stop = StopStrings(stop)
        self._seed = seed
        self._pieces: list[Piece] = []
        self._breaks = ""  # line breaks of the thinking that may turn out to be its last
        self._begun = False  # whether this stretch of thinking has had more than line breaks
        self._said: set[Kind] = set()

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the reply."""
        return self._stop.stopped

    def take_pieces(self) -> list[Piece]:
        """The pieces since the last time, neighbours of a kind as one."""
        pieces, self._pieces = self._pieces, []
        joined: list[Piece] = []
        for piece in pieces:
            if joined and joined[-1].kind == piece.kind:
                joined[-1] = Piece(f"{joined[-1]}{piece}", piece.kind)
            else:
                joined.append(piece)
        return joined

    def finish(self) -> None:
        """The end of the answer, which could have been the beginning of a stop string."""
        self._say(self._stop.finish(), "answer")

    def begin_thinking(self) -> None:
        """A stretch of thinking begins."""
        self.thought = True
        self._breaks, self._begun = "", False

    def thinking(self, text: str) -> None:
        """A piece of thinking."""
        if self.stopped:
            return
        text = self._breaks + text
        if not self._begun:
            text = text.lstrip("\n")
            if text and "thinking" in self._said:
                text = "\n\n" + text  # an earlier stretch stands before this one
            self._begun = bool(text)
        certain = text.rstrip("\n")
        self._breaks = text[len(certain) :] if self._begun else ""
        self._say(certain, "thinking")

    def answer(self, text: str) -> None:
        """A piece of the answer."""
        self._say(self._stop.push(text), "answer")

    def call(self, raw: str, body: str, read: Callable[[str, Offered], list[Call]]) -> bool:
        """Read a body as calls. Where it is none, the whole `raw` text of it is a fault and part of the answer."""
        if self.stopped:
            return True
        try:
            calls = read(body, self.offered)
        except NoCallError as error:
            self.faults.append(Fault(raw, str(error)))
            self.answer(raw)
            return False
        for call in calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            self.tool_calls.append(ToolCall(call.id or self._identity(), call.name, arguments))
        return True

    def _identity(self) -> str:
        return f"call_{sha256(self._seed + str(len(self.tool_calls)).encode()).hexdigest()[:24]}"

    def _say(self, text: str, kind: Kind) -> None:
        if text:
            self._said.add(kind)
            self._pieces.append(Piece(text, kind))
