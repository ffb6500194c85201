"""Tells thinking from answer in text that is still being written.

The pieces put together are what `tokens.chat.split_thinking` makes of the whole text: tags and the line breaks around
them are no part of either.
"""

from __future__ import annotations

from typing import Literal

from luopan.tokens.config import THINK_END, THINK_START


class Piece(str):
    """A piece of streamed text; `thinking` says whether it belongs to the thinking or to the answer."""

    thinking: bool

    def __new__(cls, text: str, thinking: bool) -> Piece:
        piece = super().__new__(cls, text)
        piece.thinking = thinking
        return piece


class ThinkingSplitter:
    """Feed it text as it comes; it gives back pieces, holding what could still turn out to be a tag or its margin."""

    def __init__(self) -> None:
        self._state: Literal["start", "think", "margin", "answer"] = "start"
        self._held = ""
        self._begun = False  # whether the thinking has had more than line breaks

    def push(self, text: str) -> list[Piece]:
        """The pieces (none, one, or thinking and answer) that are certain now."""
        self._held += text
        pieces = []
        if self._state == "start":
            self._open()
        if self._state == "think":
            pieces.append(Piece(self._thinking(), True))
        if self._state == "margin":
            self._held = self._held.lstrip("\n")
            if self._held:
                self._state = "answer"
        if self._state == "answer":
            pieces.append(Piece(self._held, False))
            self._held = ""
        return [piece for piece in pieces if piece]

    def finish(self) -> list[Piece]:
        """What was held, when no more comes."""
        if self._state == "start" and self._held:
            return [Piece(self._held, False)]
        # Half a closing tag and the margin after a full one.
        rest = self._held.strip("\n") if not self._begun else self._held.rstrip("\n")
        return [Piece(rest, True)] if self._state == "think" and rest else []

    def _open(self) -> None:
        """Decide, once there is enough text, whether the answer begins with thinking."""
        stripped = self._held.lstrip()
        if stripped.startswith(THINK_START):
            self._state, self._held = "think", stripped[len(THINK_START) :]
        elif not THINK_START.startswith(stripped):
            self._state = "answer"

    def _thinking(self) -> str:
        """What is certain of the thinking: not what could become its closing tag or the margin before it."""
        text, closed, rest = self._held.partition(THINK_END)
        if closed:
            certain, self._held, self._state = text.rstrip("\n"), rest, "margin"
        else:
            partial = next((n for n in range(len(THINK_END) - 1, 0, -1) if text.endswith(THINK_END[:n])), 0)
            certain = text[: len(text) - partial].rstrip("\n")
            self._held = text[len(certain) :]
        if not self._begun:
            certain = certain.lstrip("\n")
            self._begun = bool(certain)
        return certain
