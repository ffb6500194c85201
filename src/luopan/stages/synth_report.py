"""The report on synthetic data: how much, how long, what each check let through, what it cost, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.recipe.synth_specs import SynthesizeSpec
from luopan.report.data import Answer, Cell, Figure, Message, Note, Sample, SetAside, StageReport, Table
from luopan.synth.harvest import Harvest
from luopan.synth.journal import Journal

SHOWN = 8  # samples


def report_of(spec: SynthesizeSpec, name: str, harvest: Harvest, journal: Journal) -> StageReport:
    """The stage's part of the report."""
    kept, lost = len(harvest.rows), len(harvest.rejected)
    written = sum(line[5] for line in journal.bill())
    figures = [
        Figure(name="rows", after=kept, unit="", higher_is_better=None, help="that passed all checks"),
        Figure(name="accepted", after=kept / (kept + lost), unit="%", n=kept + lost, help="of all candidates"),
        Figure(name="tokens written", after=float(written), unit="tokens", higher_is_better=None, headline=False),
    ]
    return StageReport(
        kind="synthesize",
        name=name,
        summary=f"{kept:,} rows by the pipeline {spec.pipeline.kind}, {lost:,} rejected. {_bill(journal)}",
        figures=figures,
        tables=[checks_table(harvest), lengths_table(harvest.rows), cost_table(journal)],
        samples=samples(harvest.rows, name),
        notes=[Note(text=text) for text in harvest.notes],
        set_aside=set_aside(harvest, name),
        tokens=written,
    )


def _bill(journal: Journal) -> str:
    bill = journal.bill()
    calls, read, written = (sum(line[place] for line in bill) for place in (2, 4, 5))
    return f"{calls:,} calls read {read:,} tokens and wrote {written:,}."


def checks_table(harvest: Harvest) -> Table:
    """Of each check how many came to it and how many passed, in the order they were met."""
    rows: list[list[Cell]] = [
        [name, tally.seen, tally.passed, tally.passed / tally.seen if tally.seen else None]
        for name, tally in harvest.tallies.items()
    ]
    return Table(title="Checks", columns=["check", "looked at", "passed", "share"], units=["", "", "", "%"], rows=rows)


def lengths_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Characters of what is asked, thought and said."""
    found: dict[str, list[int]] = {}
    for row in rows:
        for part, text in parts_of(row):
            found.setdefault(part, []).append(len(text))
    lines: list[list[Cell]] = []
    for part, lengths in found.items():
        lengths.sort()
        lines.append([part, len(lengths), sum(lengths) / len(lengths), lengths[len(lengths) // 2], lengths[-1]])
    return Table(title="Lengths, in characters", columns=["part", "texts", "mean", "median", "longest"], rows=lines)


def parts_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it is, text) for every text of a row."""
    found = []
    for column in ("messages", "prompt", "chosen", "rejected"):
        for message in row.get(column, ()):
            own = column in ("chosen", "rejected")
            found.append((column if own else str(message["role"]), str(message["content"])))
            if message.get("reasoning_content"):
                found.append((f"{column} thinking" if own else "thinking", str(message["reasoning_content"])))
    return found


def cost_table(journal: Journal) -> Table:
    """Calls and tokens by who was asked for what, over all sittings."""
    return Table(
        title="Cost",
        columns=["model", "for", "calls", "refused", "tokens read", "tokens written"],
        rows=journal.bill(),
    )


def samples(rows: Sequence[Mapping[str, Any]], name: str) -> list[Sample]:
    """Some rows, spread over all."""
    chosen = [rows[place * len(rows) // min(SHOWN, len(rows))] for place in range(min(SHOWN, len(rows)))]
    return [_sample(row, name) for row in chosen]


def _sample(row: Mapping[str, Any], name: str) -> Sample:
    if "chosen" in row:
        answers = {side: _answer(row[side][-1]) for side in ("chosen", "rejected")}
        asked = row["prompt"]
    else:
        answers = {name: _answer(row["messages"][-1])}
        asked = row["messages"][:-1]
    messages = [Message(role=str(one["role"]), content=str(one["content"])) for one in asked]
    return Sample(messages=messages, answers=answers, group=row["provenance"]["pipeline"])


def _answer(message: Mapping[str, Any]) -> Answer:
    return Answer(text=str(message["content"]), thinking=message.get("reasoning_content"), finish_reason="stop")


def set_aside(harvest: Harvest, name: str) -> list[SetAside]:
    """The rejected rows by check."""
    by_check: dict[str, list[str]] = {}
    for row in harvest.rejected:
        by_check.setdefault(row["check"], []).append(str(row["reason"]))
    total = len(harvest.rows) + len(harvest.rejected)
    return [
        SetAside(stage=name, reason=check, count=len(reasons), unit="rows", of=total, examples=reasons[:5])
        for check, reasons in by_check.items()
    ]
