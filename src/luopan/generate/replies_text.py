"""A text that is continued, read like a reply: all of it is answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from luopan.generate.detokenize import TextStream
from luopan.generate.replies_parts import Piece, Said


class ReplyReader(Protocol):
    """What reads a reply's tokens: `replies.ReplyParser`, or `TextReader` where there is no conversation."""

    @property
    def stopped(self) -> bool: ...

    def push(self, token: int) -> list[Piece]: ...

    def push_all(self, tokens: Sequence[int]) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...

    def said(self, pieces: Sequence[Piece]) -> Said: ...


class TextReader:
    """Pieces of a text, cut before the stop string that is complete first."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = ()) -> None:
        self._stream = TextStream(tokenizer, stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; after it there is no more text."""
        return self._stream.stopped

    def push(self, token: int) -> list[Piece]:
        """Add a token; the text that can be shown now."""
        return _pieces(self._stream.push(token))

    def push_all(self, tokens: Sequence[int]) -> list[Piece]:
        """`push` of all tokens, decoded together."""
        return _pieces(self._stream.push_all(tokens))

    def finish(self) -> list[Piece]:
        """The text that was held back, at the end."""
        return _pieces(self._stream.finish())

    def said(self, pieces: Sequence[Piece]) -> Said:
        """The whole text, from all pieces."""
        return Said("".join(pieces), None)


def _pieces(text: str) -> list[Piece]:
    return [Piece(text, "answer")] if text else []
