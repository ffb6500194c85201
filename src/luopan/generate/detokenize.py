"""From tokens to text as they come: whole characters only, stop strings found across token borders.

A token may end in the middle of a character (bytes of UTF-8) and a stop string may begin in one token and end in the
next. Text is therefore released only once it can no longer change: an unfinished character waits for its rest, and an
ending that could be the beginning of a stop string waits until it is one or not.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

_REPLACEMENT = "\ufffd"
# Tokens decoded again with each new one, so that tokenizers whose text depends on what stands before it (leading
# spaces in SentencePiece) come out right. A character has at most four bytes, so at most that many tokens.
_CONTEXT = 8


class Detokenizer:
    """Text of one growing sequence of tokens; special tokens are left out.

    `push` returns what has become certain, `finish` the rest. Bytes that are no character come out as U+FFFD. Cost per
    token does not grow with the length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []  # the newest: context, then those whose text is not out yet
        self._pending = 0  # how many of them are not out yet
        self._released = 0  # characters of their text that are out already (before an unfinished character)

    def push(self, token: int) -> str:
        """Add a token; the text that is now certain, often but not always that token's."""
        self._tokens.append(token)
        self._pending += 1
        text = self._new_text()
        # Only a trailing replacement can still become another: an unfinished character decodes to exactly one.
        certain = text[:-1] if text.endswith(_REPLACEMENT) else text
        new = certain[self._released :]
        if len(certain) == len(text):
            self._settle()
        elif self._pending > _CONTEXT:
            # Garbage so far; only its newest bytes can still begin a character. Decode those with what comes.
            self._settle(keep=4)
            self._released = len(self._new_text().removesuffix(_REPLACEMENT))
        else:
            self._released = max(self._released, len(certain))
        return new

    def finish(self) -> str:
        """What was still waiting: an unfinished character, as U+FFFD."""
        text = self._new_text()[self._released :]
        self._settle()
        return text

    def skip(self, token: int) -> str:
        """Add a token that has no text of its own; what was still waiting before it."""
        text = self.finish()
        self._tokens.append(token)
        return text

    def run(self, tokens: Sequence[int]) -> str:
        """`push` of many tokens and `finish`, decoded once."""
        self._tokens += tokens
        self._pending += len(tokens)
        return self.finish()

    def _new_text(self) -> str:
        """The text of the pending tokens."""
        border = len(self._tokens) - self._pending
        before, whole = self._decode(self._tokens[:border]), self._decode(self._tokens)
        return whole[len(before) :]

    def _settle(self, keep: int = 0) -> None:
        """The pending tokens but the newest `keep` are done; remember the last ones as context."""
        self._tokens = self._tokens[-(_CONTEXT + keep) :]
        self._pending = keep
        self._released = 0

    def _decode(self, tokens: list[int]) -> str:
        if not tokens:
            return ""
        # Special tokens are invisible but keep their neighbours apart, so they are dropped here and not by slicing.
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopStrings:
    """Text cut before the stop string that is complete first."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._waiting = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; what can be shown now. After `stopped` has become true there is no more."""
        if self.stopped:
            return ""
        if not self._stop:
            return text
        self._waiting += text
        # The one that is complete first, so that it does not matter how many characters came at once.
        places = ((self._waiting.find(stop), stop) for stop in self._stop)
        found = [(place + len(stop), place) for place, stop in places if place >= 0]
        if found:
            self.stopped = True
            certain, self._waiting = self._waiting[: min(found)[1]], ""
            return certain
        held = max(overlap(self._waiting, stop) for stop in self._stop)
        border = len(self._waiting) - held
        certain, self._waiting = self._waiting[:border], self._waiting[border:]
        return certain

    def finish(self) -> str:
        """The text that was held back, at the end."""
        text, self._waiting = self._waiting, ""
        return text


class TextStream:
    """Text of one answer, cut before the stop string that is complete first."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; after it there is no more text."""
        return self._stop.stopped

    def push(self, token: int) -> str:
        """Add a token; the text that can be shown now."""
        return self._stop.push(self._detokenizer.push(token))

    def push_all(self, tokens: Sequence[int]) -> str:
        """`push` of all tokens, decoded together; an unfinished character at their end is not waited for."""
        return self._stop.push(self._detokenizer.run(tokens))

    def finish(self) -> str:
        """The text that was held back, at the end."""
        return self._stop.push(self._detokenizer.finish()) + self._stop.finish()


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, shorter than all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
