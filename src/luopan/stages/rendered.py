"""Rows of a file as the tokens that training would make of them, for looking at: `luopan template render`.

The file's format is recognised as the stages recognise it. A pair of answers becomes two examples.
Nothing is truncated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.stages.rows import Row, read_rows
from luopan.tokens.chat import Conversation, TrainOn, encode_chats, encode_text
from luopan.tokens.convert import convert
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.formats import LOOKED_AT, AnyRow, ChatRow, Extras, Format, PairRow, TextRow, recognise


@dataclass(frozen=True)
class RenderedFile:
    """`shown`: a title and the example; `faults`: what is wrong with the other rows, their places in front."""

    decision: str
    shown: list[tuple[str, Example]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def render_file(
    file: Path, tokenizer: PreTrainedTokenizerFast, *, limit: int, train_on: TrainOn = "assistant", think: bool = False
) -> RenderedFile:
    """The first `limit` rows of a file. DataError where it cannot be read or its format is not recognised.

    `think`: thinking is on in rows that do not say. The decision is empty for rows that are `messages` already.
    """
    rows = list(islice(read_rows(file), max(limit, LOOKED_AT)))
    sound = [row.values for row in rows if row.values is not None]
    form = recognise(sound, str(file)) if sound else None
    result = RenderedFile(form.sentence(str(file)) if form and form.name != "messages" else "")
    for row in rows[:limit]:
        for title, item in _examples(row, form, tokenizer, train_on, think):
            if isinstance(item, str):
                result.faults.append(item)
            else:
                trained = sum(int(label) != IGNORE for label in item.labels)
                result.shown.append((f"{title}: {len(item.input_ids)} tokens, {trained} trained", item))
    return result


def _examples(
    row: Row, form: Format | None, tokenizer: PreTrainedTokenizerFast, train_on: TrainOn, think: bool
) -> Iterator[tuple[str, Example | str]]:
    if row.values is None or form is None:
        yield row.where, f"{row.where}: {row.fault}"
        return
    found = convert(row.values, form, row.where)
    if isinstance(found, str):
        yield row.where, f"{row.where}: {found}"
        return
    if isinstance(found, TextRow):
        yield row.where, encode_text(tokenizer, found.prompt + found.text)
        return
    for name, messages in _talks(found):
        extras: Extras = found.extras
        thinking = think if extras.enable_thinking is None else extras.enable_thinking
        talk = Conversation(messages, thinking, extras.tools, row.where, extras.arguments)
        chosen: TrainOn = train_on if isinstance(found, ChatRow) else "last_turn"
        title = f"{row.where}{name}"
        try:
            yield title, encode_chats(tokenizer, [talk], train_on=chosen, strict=True).examples[0]
        except LuopanError as error:
            yield title, str(error)


def _talks(row: AnyRow) -> Sequence[tuple[str, list[dict[str, Any]]]]:
    """The conversations in a row, and what to call them."""
    if isinstance(row, ChatRow):
        return [("", row.messages)]
    if isinstance(row, PairRow):
        return [(" (chosen)", row.prompt + row.chosen), (" (rejected)", row.prompt + row.rejected)]
    assert not isinstance(row, TextRow)
    return [(" (good)" if row.label else " (bad)", row.prompt + row.completion)]
