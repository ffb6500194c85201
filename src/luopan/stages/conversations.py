"""Conversations for fine-tuning: made by skills or read from the user's file, encoded, checked, counted.

A row that cannot be trained on (no assistant turn, longer than the context, nothing to learn) is set aside with its
file and line and is counted; it never reaches the model. The table of the mixture counts rows and tokens per source,
because a source with one per cent of the rows may well have eleven per cent of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from luopan.corpus.skills import Case, contaminate, converse, generate_cases
from luopan.errors import DataError
from luopan.recipe.specs import ChatSource
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
    named: list[tuple[str, Conversation]] = []
    cases: list[Case] = []
    for number, source in enumerate(sources):
        if source.path is not None:
            named += _from_file(Path(source.path), source.examples, data)
        else:
            made = skill_cases(source, seed + number)
            named += [(source.name, _conversation(case, f"{source.name} #{i}")) for i, case in enumerate(made)]
            cases += made
    if multi_turn:
        named = _with_earlier_turns(named, cases, multi_turn, seed)
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


def _with_earlier_turns(
    named: Sequence[tuple[str, Conversation]], cases: Sequence[Case], share: float, seed: int
) -> list[tuple[str, Conversation]]:
    """A share of the skill conversations with other cases' exchanges in front; files are left as they are."""
    longer = iter(converse(cases, share, seed=seed, context=cases))
    made = {case_where for _, conversation in named if " #" in (case_where := conversation.where or "")}
    return [
        (name, _conversation(next(longer), row.where or "")) if row.where in made else (name, row)
        for name, row in named
    ]


def _from_file(path: Path, limit: int | None, data: ChatData) -> list[tuple[str, Conversation]]:
    """Rows with a `messages` column; `chat_template_kwargs.enable_thinking` and `tools` are honoured."""
    found = []
    for row in islice(read_rows(path), limit):
        if row.values is None:
            data.set_aside.append((row.where, row.fault))
        elif not isinstance(row.values.get("messages"), list):
            data.set_aside.append((row.where, "no list in the column `messages`"))
        else:
            arguments = row.values.get("chat_template_kwargs") or {}
            thinking = bool(arguments.get("enable_thinking", False))
            tools = row.values.get("tools") or None
            found.append((path.name, Conversation(row.values["messages"], thinking, tools, row.where)))
    return found


def set_aside_report(stage: str, data: ChatData) -> list[SetAside]:
    """One entry per reason, with examples of where."""
    by_reason: dict[str, list[str]] = {}
    for where, reason in data.set_aside:
        by_reason.setdefault(reason, []).append(where)
    total = len(data.examples) + len(data.set_aside)
    return [
        SetAside(stage=stage, reason=reason, count=len(places), unit="conversations", of=total, examples=places[:5])
        for reason, places in sorted(by_reason.items())
    ]


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
