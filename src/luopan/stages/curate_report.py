"""The curate stage's part of a run's report: its funnel, its data card in pictures, samples, what was set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.corpus import card_pictures as pictures
from luopan.corpus.card_made import note_of
from luopan.report.data import Figure, Message, Note, Picture, Sample, SetAside, StageReport, Table

SAMPLES = 1  # of each source; the card's page has more


def curate_report(
    name: str, funnel: Mapping[str, Any], card: Mapping[str, Any], figures: Sequence[Figure]
) -> StageReport:
    """The report of the stage called `name`, from its `funnel.json` and `card.json`."""
    shown: list[Picture | None] = [
        *pictures.funnels(funnel),
        pictures.source_shares(card),
        pictures.lengths(card),
        pictures.language_shares(card),
        pictures.quality(card),
    ]
    tables: list[Table | None] = [
        pictures.source_table(card),
        pictures.counts_table(funnel, card),
        pictures.pii_table(card),
        pictures.domain_table(card, most=10),
        pictures.span_table(card),
    ]
    return StageReport(
        kind="curate",
        name=name,
        summary=summary(card),
        figures=list(figures),
        pictures=[item for item in shown if item is not None],
        tables=[item for item in tables if item is not None],
        samples=[
            Sample(
                messages=[Message(role="text", content=sample["text"])], answers={}, title=sample["id"], group=source
            )
            for source, part in card["sources"].items()
            for sample in part["samples"][:SAMPLES]
        ],
        notes=[
            Note(text="Data card with samples of what was kept and rejected: corpus/card.html in the stage's folder."),
            *(note_of(text) for text in funnel["notes"]),
        ],
        set_aside=[
            SetAside(
                stage=name, reason=f"{row['step']}: {row['rule']}", count=row["documents"], examples=row["examples"]
            )
            for row in funnel["rejected"]
        ],
    )


def summary(card: Mapping[str, Any]) -> str:
    """One sentence about what the corpus holds."""
    documents, tokens = card["documents"], card["tokens"]["train"]
    about = "" if card["tokens_by"]["counted"] else "about "
    return (
        f"{documents['train']:,} documents to train on ({about}{tokens:,} tokens), {documents['held_out']:,} held out."
    )
