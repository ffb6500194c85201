"""Conversations for fine-tuning: made by skills or read from the user's file, encoded, checked, counted.

A row that cannot be trained on (no assistant turn, longer than the context, nothing to learn) is set aside with its
file and line and is counted; it never reaches the model. The table of the mixture counts rows and tokens per source,
because a source with one per cent of the rows may well have eleven per cent of the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from luopan.corpus.skills import Case, contaminate, converse, generate_cases
from luopan.errors import DataError
from luopan.recipe.parts import ChatSource
from luopan.report.data import Cell, SetAside, Table
from luopan.stages.rows import read_rows
from luopan.tokens.chat import Conversation, encode_chats
from luopan.tokens.example import Example


@dataclass
class ChatData:
    """Encoded conversations with their sources, and (where, reason) of what was set aside."""

    examples: list[Example] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)


def chat_data(
    tokenizer: Any, sources: Iterable[ChatSource], *, seed: int, max_length: int, multi_turn: float = 0.0
) -> ChatData:
    """All conversations of a mixture as tokens and labels; DataError if none is left to train on."""
    data = ChatData()
    from_skills: list[tuple[str, Case]] = []
    named: list[tuple[str, Conversation]] = []
    for number, source in enumerate(sources):
        if source.path is not None:
            named += _from_file(Path(source.path), source.examples, data)
        else:
            from_skills += [(source.name, case) for case in skill_cases(source, seed + number)]
    cases = [case for _, case in from_skills]
    if multi_turn:  # skill cases only: the user's conversations are as long as they are
        cases = converse(cases, multi_turn, seed=seed, context=cases)
    named += [
        (name, _conversation(case, f"{name} #{i}")) for i, ((name, _), case) in enumerate(zip(from_skills, cases))
    ]
    encoded = encode_chats(tokenizer, [conversation for _, conversation in named], max_length=max_length)
    data.set_aside += [(item.where or f"row {item.index}", item.reason) for item in encoded.set_aside]
    if not encoded.examples:
        where, reason = data.set_aside[0]
        raise DataError(f"no conversation is left to train on; the first was set aside: {reason}", where=where)
    data.examples = encoded.examples
    data.sources = [named[i][0] for i in encoded.kept]
    data.turns = [sum(m["role"] == "assistant" for m in named[i][1].messages) for i in encoded.kept]
    return data


def skill_cases(source: ChatSource, seed: int) -> list[Case]:
    """The training cases of one procedural source, with the flaw that raw data would have."""
    assert source.skill is not None and source.examples is not None
    options: dict[str, Any] = {"thinking": source.thinking, **source.options}
    cases = generate_cases(source.skill, source.examples, seed, "train", **options)
    return contaminate(cases, source.flaw_rate, seed=seed, flaw=source.flaw) if source.flaw_rate else cases


def _conversation(case: Case, where: str) -> Conversation:
    return Conversation(case.conversation(), case.enable_thinking, None, where)


def _from_file(path: Path, limit: int | None, data: ChatData) -> list[tuple[str, Conversation]]:
    """Rows with a `messages` column; `chat_template_kwargs.enable_thinking` and `tools` are honoured."""
    found = []
    for row in islice(read_rows(path), limit):
        values = row.values or {}
        fault = row.fault or odd_columns(values)
        if fault:
            data.set_aside.append((row.where, fault))
            continue
        thinking = bool((values.get("chat_template_kwargs") or {}).get("enable_thinking", False))
        found.append((path.name, Conversation(values["messages"], thinking, values.get("tools") or None, row.where)))
    return found


def odd_columns(row: dict[str, Any]) -> str:
    """What is wrong with the columns of a chat row, "" if nothing is."""
    arguments = row.get("chat_template_kwargs")
    if not isinstance(row.get("messages"), list):
        return "no list in the column `messages`"
    if arguments is not None and not isinstance(arguments, dict):
        return "`chat_template_kwargs` is not an object"
    if not isinstance((arguments or {}).get("enable_thinking", False), bool):
        return "`enable_thinking` is neither true nor false"
    if row.get("tools") and not isinstance(row["tools"], list):
        return "`tools` is not a list"
    return ""


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
    return by_reason(data.set_aside, stage, "conversations", len(data.examples) + len(data.set_aside))


def set_aside_note(data: ChatData) -> str | None:
    """A line for the person in front of the run; None if everything can be used."""
    if not data.set_aside:
        return None
    where, reason = data.set_aside[0]
    total = len(data.examples) + len(data.set_aside)
    return f"{len(data.set_aside)} of {total} conversations are set aside, such as {where}: {reason}"


def mixture_table(data: ChatData) -> Table:
    """Rows, tokens and lengths per source; columns as in the Smol Training Playbook's table of its SFT mixture."""
    lengths = np.array([len(example) for example in data.examples])
    trained = np.array([example.num_trained for example in data.examples])
    turns, names = np.array(data.turns), np.array(data.sources)

    def line(name: str, chosen: np.ndarray) -> list[Cell]:
        tokens = int(lengths[chosen].sum())
        means = (float(values[chosen].mean()) for values in (lengths, lengths - trained, trained, turns))
        return [name, int(chosen.sum()), float(chosen.mean()), tokens, tokens / int(lengths.sum()), *means]

    return Table(
        title="Mixture",
        columns=["source", "rows", "% rows", "tokens", "% tokens", "mean tokens", "in context", "in response", "turns"],
        units=["", "", "%", "", "%", "", "", "", ""],
        rows=[line(name, names == name) for name in dict.fromkeys(data.sources)],
        total=line("all", np.ones(len(lengths), dtype=bool)),
    )
