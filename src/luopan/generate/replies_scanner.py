"""Tokens of a reply as text and marks, in order, as they come.

A mark (`<think>`, `<|channel|>`) is known by its token where the vocabulary has one for it: the same characters spelled
out in other tokens are text, just as control tokens that a user types are text in a prompt. Where the vocabulary has
none, the characters are the mark, and an ending that could be the beginning of one is held until it is or is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from luopan.generate.detokenize import Detokenizer, overlap


@dataclass(frozen=True)
class Mark:
    """A mark that has come. `visible`: an ordinary decoder would show it, for its token is not a special one."""

    text: str
    visible: bool = True


Watched = Callable[[], Collection[str]]


class Scanner:
    """Cuts a reply into text and marks.

    `tokens`: the marks that are tokens. `watched()` names the marks that are looked for in text at the moment; it is
    asked anew after every event, so whoever reads may change it by what was read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens: Mapping[int, Mark], watched: Watched) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._tokens = tokens
        self._watched = watched
        self._held = ""

    def push(self, token: int) -> Iterator[str | Mark]:
        """What has become certain by one more token."""
        mark = self._tokens.get(token)
        if mark is None:
            self._held += self._detokenizer.push(token)
        else:
            self._held += self._detokenizer.skip(token)
            yield from self._drain(last=True)
            yield mark
        yield from self._drain()

    def push_all(self, tokens: Sequence[int]) -> Iterator[str | Mark]:
        """The same for many tokens at once, at a fraction of the time; `finish` has to follow."""
        begin = 0
        for place, token in enumerate(tokens):
            if token in self._tokens:
                self._held += self._detokenizer.run(tokens[begin:place])
                yield from self.push(token)
                begin = place + 1
        self._held += self._detokenizer.run(tokens[begin:])
        yield from self._drain()

    def finish(self) -> Iterator[str | Mark]:
        """What was held, when no more comes."""
        self._held += self._detokenizer.finish()
        yield from self._drain(last=True)

    def back(self, text: str) -> None:
        """Put text back that is to be read again."""
        self._held = text + self._held

    def _drain(self, last: bool = False) -> Iterator[str | Mark]:
        while self._held:
            watched = self._watched()
            places = [(place, -len(mark), mark) for mark in watched if (place := self._held.find(mark)) >= 0]
            if places:
                place, _, mark = min(places)
                text, self._held = self._held[:place], self._held[place:]
                if text:
                    yield text  # whoever reads it may put it back, or watch for others now
                else:
                    self._held = self._held[len(mark) :]
                    yield Mark(mark)
                continue
            held = 0 if last else max((overlap(self._held, mark) for mark in watched), default=0)
            border = len(self._held) - held
            if not border:
                return
            text, self._held = self._held[:border], self._held[border:]
            yield text
