"""Conversations for fine-tuning: made by skills or read from the user's file, encoded, checked, counted.

A row that cannot be trained on (no assistant turn, longer than the context, nothing to learn) is set aside with its
file and line and is counted; it never reaches the model. The table of the mixture counts rows and tokens per source,
because a source with one per cent of the rows may well have eleven per cent of the tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luopan.artifacts import stable_hash
from luopan.corpus.skills import Case, contaminate, converse, generate_cases
from luopan.errors import DataError
from luopan.recipe.parts import ChatSource
from luopan.report.data import Cell, SetAside, Table
from luopan.stages.chat_weights import by_tokens
from luopan.stages.held_out import held_prompts
from luopan.stages.rows import read_source
from luopan.tokens.chat import Conversation, TrainOn, encode_chats, encode_text
from luopan.tokens.convert import convert
from luopan.tokens.convert import thinks as thinks_in
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.formats import ChatRow, TextRow, recognise
from luopan.tokens.tokenizer import document_frame
from luopan.tokens.truncate import Encode, Truncation, cut, shorten


@dataclass
class ChatData:
    """Encoded conversations with their sources, and (where, reason) of what was set aside.

    `formats` says how each source of the user's was read, `shortened` what truncation did, `thinks` the mode of each;
    `held` are those that are held out, and their sources.
    """

    examples: list[Example] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    thinks: list[bool] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    shortened: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, int] = field(default_factory=dict)
    held: list[Example] = field(default_factory=list)
    held_sources: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All that was read: used, left out for the mixture's weights, set aside."""
        return len(self.examples) + len(self.held) + sum(self.left_out.values()) + len(self.set_aside)

    def add(self, example: Example, source: str, turns: int, thinks: bool = False) -> None:
        """One more conversation."""
        self.examples.append(example)
        self.sources.append(source)
        self.turns.append(turns)
        self.thinks.append(thinks)

    def only(self, numbers: Sequence[int]) -> None:
        """Keep these, in this order; a number may come again."""
        for name in ("examples", "sources", "turns", "thinks"):
            values = getattr(self, name)
            setattr(self, name, [values[number] for number in numbers])

    def hold_out(self, asked: Sequence[str | None], wanted: int) -> list[int]:
        """Take about `wanted` conversations out, none of whose prompts (`asked`, None: stays) stays; those that stay.

        DataError where too few have a prompt of their own.
        """
        held = held_prompts([prompt for prompt in asked if prompt is not None], wanted)
        for source in set(self.sources):  # none is left with nothing to learn
            own = [prompt for name, prompt in zip(self.sources, asked, strict=True) if name == source]
            if held.issuperset(own):
                held -= set(own)
        if not held:
            hint = "Leave test_conversations out, or give more rows."
            raise DataError(
                "too few conversations have a prompt of their own, so none can be held out", where="data", hint=hint
            )
        for example, source, prompt in zip(self.examples, self.sources, asked, strict=True):
            if prompt in held:
                self.held.append(example)
                self.held_sources.append(source)
        stay = [number for number, prompt in enumerate(asked) if prompt not in held]
        self.only(stay)
        return stay


def chat_data(
    tokenizer: Any,
    sources: Sequence[ChatSource],
    *,
    seed: int,
    max_length: int,
    multi_turn: float = 0.0,
    train_on: TrainOn = "assistant",
    truncation: Truncation = "drop",
    test_conversations: int = 0,
) -> ChatData:
    """All conversations of a mixture as tokens and labels; DataError if none is left to train on.

    About `test_conversations` of the user's are held out.
    """
    data = ChatData()
    from_skills: list[tuple[int, Case]] = []
    named: list[tuple[int, Conversation]] = []
    texts: list[tuple[int, TextRow]] = []
    for number, source in enumerate(sources):
        if source.skill is None:
            _from_rows(number, source, data, named, texts)
        else:
            from_skills += [(number, case) for case in skill_cases(source, seed + number)]
    cases = [case for _, case in from_skills]
    if multi_turn:  # skill cases only: the user's conversations are as long as they are
        cases = converse(cases, multi_turn, seed=seed, context=cases)
    names = [_label(source) for source in sources]
    named += [
        (number, _conversation(case, f"{names[number]} #{i}"))
        for i, ((number, _), case) in enumerate(zip(from_skills, cases))
    ]
    encoded = _encode(tokenizer, named, names, data, max_length, train_on, truncation)
    encoded += _encode_text(tokenizer, texts, names, data, max_length, truncation)
    numbers = [number for number, _ in encoded]
    if not data.examples:
        where, reason = data.set_aside[0] if data.set_aside else (names[0], "there is none")
        raise DataError(f"no conversation is left to train on; the first was set aside: {reason}", where=where)
    if test_conversations:
        asked = [prompt if sources[number].skill is None else None for number, prompt in encoded]
        numbers = [numbers[place] for place in data.hold_out(asked, test_conversations)]
    if any(source.weight is not None for source in sources):
        chosen = by_tokens(
            [len(example) for example in data.examples],
            numbers,
            [float(source.weight or 0) for source in sources],
            [source.max_epochs for source in sources],
            seed,
        )
        kept = Counter(data.sources)
        data.only(chosen)
        data.left_out = dict(kept - Counter(data.sources))
    return data


def _label(source: ChatSource) -> str:
    return Path(source.path).name if source.path is not None else source.name


def _encode(
    tokenizer: Any,
    named: Sequence[tuple[int, Conversation]],
    names: Sequence[str],
    data: ChatData,
    max_length: int,
    train_on: TrainOn,
    truncation: Truncation,
) -> list[tuple[int, str]]:
    """Add conversations to `data`; the source of each that was added, and what was asked first in it."""
    rows = [row for _, row in named]
    encoded = encode_chats(tokenizer, rows, train_on=train_on)
    data.set_aside += [(item.where or f"row {item.index}", item.reason) for item in encoded.set_aside]

    def again(row: Conversation) -> Example | None:
        examples = encode_chats(tokenizer, [row], train_on=train_on).examples
        return examples[0] if examples else None

    numbers = []
    for place, example in zip(encoded.kept, encoded.examples, strict=True):
        number, row = named[place]
        pieces = [example]
        if len(example) > max_length:
            pieces = _shortened(row, example, max_length, truncation, again, data)
        turns = sum(m["role"] == "assistant" for m in row.messages)
        asked = stable_hash(next((m.get("content") for m in row.messages if m["role"] == "user"), None))
        for piece in pieces:
            data.add(piece, names[number], turns if piece is example else stretches(piece), row.enable_thinking)
            numbers.append((number, asked))
    return numbers


def stretches(example: Example) -> int:
    """How many runs of trained tokens there are: of a piece of a conversation the turns."""
    trained = [label != IGNORE for label in example.labels]
    return sum(here and not before for before, here in zip([False, *trained], trained))


def _shortened(
    row: Conversation, example: Example, max_length: int, truncation: Truncation, again: Encode, data: ChatData
) -> list[Example]:
    found = shorten(row, example, max_length, truncation, again)
    if not found.examples:
        reason = f"a conversation of {len(example)} tokens is longer than max_length {max_length}"
        data.set_aside.append((row.where or "", reason))
        return []
    data.shortened["conversations"] += 1
    data.shortened["pieces"] += len(found.examples)
    data.shortened["tokens lost"] += found.lost
    return found.examples


def _encode_text(
    tokenizer: Any,
    texts: Sequence[tuple[int, TextRow]],
    names: Sequence[str],
    data: ChatData,
    max_length: int,
    truncation: Truncation,
) -> list[tuple[int, str]]:
    """Texts without a template, ended by the end-of-document token; behind a prompt only what follows is learnt."""
    numbers = []
    for number, row in texts:
        example = encode_text(tokenizer, row.text)
        if row.prompt:
            before, after = document_frame(tokenizer)
            prompt = list(encode_text(tokenizer, row.prompt).input_ids)[: -len(after)]
            ids = list(example.input_ids)[len(before) :]
            example = Example([*prompt, *ids], [IGNORE] * len(prompt) + ids)
        pieces = [example]
        if len(example) > max_length:
            pieces = cut(example, max_length) if truncation == "split_tokens" else []
            if not pieces:
                reason = f"a text of {len(example)} tokens is longer than max_length {max_length}"
                data.set_aside.append((row.where, reason))
        for piece in pieces:
            if piece.num_trained:
                data.add(piece, names[number], 0)
                numbers.append((number, stable_hash(row.prompt or row.text)))
    return numbers


def _from_rows(
    number: int,
    source: ChatSource,
    data: ChatData,
    named: list[tuple[int, Conversation]],
    texts: list[tuple[int, TextRow]],
) -> None:
    """The rows of a source in the one form; how it was read is noted, rows that do not fit are set aside."""
    rows = list(read_source(source))
    sound = [row for row in rows if row.values is not None]
    data.set_aside += [(row.where, row.fault) for row in rows if row.values is None]
    if not sound:
        return
    form = recognise([row.values or {} for row in sound], source.name, source.format)
    if form.kind not in ("chat", "text"):
        hint = "If it holds conversations as well: format: messages." if form.kind == "unpaired" else None
        raise DataError(f"holds {form.name} data, which a preference stage reads", where=source.name, hint=hint)
    data.formats.append(f"{form.sentence(_label(source))}; {len(rows):,} rows")
    for row in sound:
        found = convert(row.values or {}, form, row.where, as_text=source.as_text)
        if isinstance(found, str):
            data.set_aside.append((row.where, found))
        elif isinstance(found, TextRow):
            texts.append((number, found))
        elif isinstance(found, ChatRow):
            said = found.extras
            thinks = bool(said.enable_thinking) if source.mode is None else source.mode == "think"
            if not thinks and thinks_in(found.messages):
                data.set_aside.append((row.where, f"it thinks, and the mode of {_label(source)} is no_think"))
                continue
            named.append((number, Conversation(found.messages, thinks, said.tools, row.where, said.arguments)))


def skill_cases(source: ChatSource, seed: int) -> list[Case]:
    """The training cases of one procedural source, with the flaw that raw data would have."""
    assert source.skill is not None and source.examples is not None
    options: dict[str, Any] = {"thinking": source.thinking, **source.options}
    cases = generate_cases(source.skill, source.examples, seed, "train", **options)
    return contaminate(cases, source.flaw_rate, seed=seed, flaw=source.flaw) if source.flaw_rate else cases


def _conversation(case: Case, where: str) -> Conversation:
    return Conversation(case.conversation(), case.enable_thinking, None, where)


def by_reason(set_aside: Sequence[tuple[str, str]], stage: str, unit: str, of: int) -> list[SetAside]:
    """(where, reason) of single rows as one entry per reason; figures in a reason do not make it another one."""
    places: dict[str, list[str]] = {}
    for where, reason in set_aside:
        places.setdefault(re.sub(r"\d[\d,]*", "N", reason), []).append(f"{where}: {reason}")
    return [
        SetAside(stage=stage, reason=reason, count=len(rows), unit=unit, of=of, examples=rows[:5])
        for reason, rows in sorted(places.items())
    ]


def set_aside_report(stage: str, data: ChatData) -> list[SetAside]:
    """One entry per reason, with examples of where."""
    return by_reason(data.set_aside, stage, "conversations", data.rows)


def set_aside_note(data: ChatData) -> str | None:
    """A line for the person in front of the run; None if everything can be used."""
    if not data.set_aside:
        return None
    where, reason = data.set_aside[0]
    total = data.rows
    return f"{len(data.set_aside)} of {total} conversations are set aside, such as {where}: {reason}"


def data_notes(data: ChatData) -> list[str]:
    """How the user's sources were read, what truncation did, what the mixture leaves out: a sentence each."""
    notes = list(data.formats)
    if data.shortened:
        done = data.shortened
        notes.append(
            f"{done['conversations']:,} conversations were longer than max_length and became {done['pieces']:,} "
            f"pieces; {done['tokens lost']:,} tokens that would have been learnt are lost."
        )
    for name, rows in data.left_out.items():
        notes.append(f"{name}: {rows:,} rows are left out for the mixture's weights.")
    total = data.rows
    if len(data.set_aside) * 2 > total:
        counted = f"{len(data.set_aside):,} of {total:,}"
        notes.append(f"More than half of the rows are set aside: {counted}. Look at the reasons.")
    return notes


def mixture_table(data: ChatData) -> Table:
    """Rows, tokens and lengths per source; columns as in the Smol Training Playbook's table of its SFT mixture."""
    return _table(data, "Mixture", "source", np.array(data.sources))


def mode_table(data: ChatData) -> Table | None:
    """The same with and without thinking; None where there is only one mode."""
    if len(set(data.thinks)) < 2:
        return None
    return _table(data, "Mixture by mode", "mode", np.where(np.array(data.thinks), "think", "no_think"))


def _table(data: ChatData, title: str, column: str, names: np.ndarray) -> Table:
    lengths = np.array([len(example) for example in data.examples])
    trained = np.array([example.num_trained for example in data.examples])
    turns = np.array(data.turns)

    def line(name: str, chosen: np.ndarray) -> list[Cell]:
        tokens = int(lengths[chosen].sum())
        means = (float(values[chosen].mean()) for values in (lengths, lengths - trained, trained, turns))
        return [name, int(chosen.sum()), float(chosen.mean()), tokens, tokens / int(lengths.sum()), *means]

    return Table(
        title=title,
        columns=[column, "rows", "% rows", "tokens", "% tokens", "mean tokens", "in context", "in response", "turns"],
        units=["", "", "%", "", "%", "", "", "", ""],
        rows=[line(str(name), names == name) for name in dict.fromkeys(names.tolist())],
        total=line("all", np.ones(len(lengths), dtype=bool)),
    )
