"""Which format a set of chat or preference data has, told from its columns; and its rows in one form.

Recognised: `messages` (OpenAI), ShareGPT (`conversations` of from/value), Alpaca (instruction, input, output), prompt
and completion, preference (chosen, rejected, with the prompt beside them or in front of both), unpaired (a completion
and a label), plain text. The decision is made once a source and can be said in a sentence; a row that then does not fit
is a fault of that row, with what is wrong with it. What is not recognised is refused with its columns, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from luopan.errors import DataError

FormatName = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "preference", "unpaired", "text"]
Kind = Literal["chat", "pairs", "unpaired", "text"]
Row = Mapping[str, Any]

KINDS: dict[FormatName, Kind] = {
    "messages": "chat",
    "sharegpt": "chat",
    "alpaca": "chat",
    "prompt_completion": "chat",
    "preference": "pairs",
    "unpaired": "unpaired",
    "text": "text",
}
TALKS = ("messages", "conversations", "conversation", "dialogue", "dialog")
ANSWERS = ("output", "response", "answer", "completion")
ASKED = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"),
    ("input", "output"),
    ("question", "response"), ("prompt", "answer"),
)  # fmt: skip
LOOKED_AT = 50


@dataclass(frozen=True)
class Format:
    """A decision: `columns` are those that are read, the first of them holds the conversation or the prompt."""

    name: FormatName
    columns: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """What its rows become."""
        return KINDS[self.name]

    def sentence(self, source: str) -> str:
        """The decision in words."""
        into = {"chat": "messages", "pairs": "pairs of answers", "unpaired": "answers with a label", "text": "text"}
        shown = {"sharegpt": "ShareGPT", "alpaca": "Alpaca", "prompt_completion": "prompt and completion"}
        read = ", ".join(self.columns)
        return f"{source}: {shown.get(self.name, self.name)} ({read}), read as {into[self.kind]}"


@dataclass(frozen=True)
class Extras:
    """What any row may say beside its text. `enable_thinking` None: the row does not say."""

    where: str
    enable_thinking: bool | None = None
    tools: list[dict[str, Any]] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatRow:
    """A conversation."""

    messages: list[dict[str, Any]]
    extras: Extras


@dataclass(frozen=True)
class PairRow:
    """Two answers to one prompt; `margin` by how much the chosen one is better, where the data says so."""

    prompt: list[dict[str, Any]]
    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    extras: Extras
    margin: float | None = None


@dataclass(frozen=True)
class UnpairedRow:
    """One answer, found good or bad."""

    prompt: list[dict[str, Any]]
    completion: list[dict[str, Any]]
    label: bool
    extras: Extras


@dataclass(frozen=True)
class TextRow:
    """Text that no template is put around; with a prompt only what follows it is learnt."""

    text: str
    where: str
    prompt: str = ""


AnyRow = ChatRow | PairRow | UnpairedRow | TextRow


def recognise(rows: Sequence[Row], source: str, wanted: FormatName | None = None) -> Format:
    """The format of a set from its first rows. DataError where they fit none, or not the `wanted` one."""
    looked = rows[:LOOKED_AT]
    columns = {name for row in looked for name, value in row.items() if value is not None}
    found = {name: tried for name in get_args(FormatName) if (tried := _try(name, columns, looked)) is not None}
    listed = ", ".join(sorted(columns)) or "none"
    if "unpaired" not in found and "label" in columns and "completion" in columns:
        raise DataError("label holds values that are neither true nor false", where=source, hint="Write true or false.")
    if wanted is not None:
        if wanted not in found:
            raise DataError(f"format is {wanted}, and its columns are missing; there are: {listed}", where=source)
        return found[wanted]
    for name in ("preference", "unpaired", "messages", "sharegpt", "alpaca", "prompt_completion", "text"):
        if name in found:
            _refuse_unread(found[name], columns, source)
            _refuse_ambiguous(found[name], columns, source)
            return found[name]
    hint = (
        "Known are messages, conversations (from, value), instruction with output, prompt with completion, chosen with "
        "rejected, completion with label, text. Rename the columns, or say format: and columns:."
    )
    raise DataError(f"the format is not recognised; its columns are: {listed}", where=source, hint=hint)


def _refuse_unread(form: Format, columns: set[str], source: str) -> None:
    """DataError for columns that change what an answer means and that this form has no place for."""
    unread = {"functions", "reasoning", "reasoning_content", "thinking", "rationale"} & columns
    unread |= {"context"} & columns if form.name != "alpaca" else set()
    if unread:
        named = ", ".join(sorted(unread))
        hint = "Put it into the prompt or the messages, or take the column out of the file."
        raise DataError(f"column {named} would be dropped, and the answers may depend on it", where=source, hint=hint)


def _refuse_ambiguous(form: Format, columns: set[str], source: str) -> None:
    """DataError where more than one column could be the answer: the wrong one would be learnt without a word."""
    if form.name not in ("alpaca", "prompt_completion"):
        return
    could = [column for column in ANSWERS if column in columns]
    if len(could) > 1:
        read = form.columns[1]
        hint = (
            f"Say `format: {form.name}` where it is {read}; else `columns: {{COLUMN: {read}}}` as well, with the one "
            "that holds the answer."
        )
        raise DataError(f"{' and '.join(could)} could each be the answer", where=source, hint=hint)


def truth(value: Any) -> Any:
    """True or False where a text spells it (a CSV file has nothing else); any other value as it is."""
    spelt = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return spelt.get(value.strip().lower(), value) if isinstance(value, str) else value


def _try(name: str, columns: set[str], rows: Sequence[Row]) -> Format | None:
    """The format of that name, if the columns are there and hold what they should."""
    talk = next((column for column in TALKS if column in columns and _holds_list(rows, column)), None)
    if name == "preference":
        return Format("preference", ("chosen", "rejected")) if {"chosen", "rejected"} <= columns else None
    if name == "unpaired":
        labelled = "label" in columns and all(truth(row.get("label")) in (True, False, 0, 1, None) for row in rows)
        held = "completion" if "completion" in columns else talk
        return Format("unpaired", (held, "label")) if labelled and held else None
    if name in ("messages", "sharegpt"):
        key = "role" if name == "messages" else "from"
        fits = talk is not None and any(_first_has(row.get(talk), key) for row in rows)
        if name == "messages" and talk == "messages" and not any(_first_has(row.get(talk), "from") for row in rows):
            fits = True  # also where the first rows hold nothing that helps
        return Format("messages" if name == "messages" else "sharegpt", (talk,)) if fits and talk else None
    if name == "alpaca":
        answer = next((column for column in ANSWERS if column in columns), None)
        return Format("alpaca", ("instruction", answer)) if "instruction" in columns and answer else None
    if name == "prompt_completion":
        pair = next((pair for pair in ASKED if set(pair) <= columns), None)
        return Format("prompt_completion", pair) if pair and "instruction" not in columns else None
    return Format("text", ("text",)) if "text" in columns else None


def _holds_list(rows: Sequence[Row], column: str) -> bool:
    return any(isinstance(row.get(column), list) for row in rows)


def _first_has(value: Any, key: str) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and key in value[0]
