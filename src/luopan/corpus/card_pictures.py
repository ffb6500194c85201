"""The pictures and tables of a data card: its plain data in, the report's plain data out.

Used by the card's own page and by the report of a run. Where a card says nothing (no language was told, no document has
a URL) the picture is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.corpus.card_made import meaning, shortened
from luopan.report.data import BarChart, Bars, Cell, Funnel, FunnelStep, Mixture, Table
from luopan.report.numbers import size

ENDS = ("train", "held_out")  # part what the step before left; they take nothing away
CUT = "pieces"
SOURCES_SHOWN = 6  # with a column of their own in the table of steps
UNKNOWN = "unknown"
BOTH = "Training and held out together."


def steps_before_parting(funnel: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the funnel up to the last that takes documents away."""
    return [step for step in funnel["steps"] if step["step"] not in ENDS]


def funnels(funnel: Mapping[str, Any]) -> list[Funnel]:
    """One funnel; two where long documents were cut, because pieces are not to be compared with documents (the first
    is left out where nothing was removed before the cut).
    """
    steps = steps_before_parting(funnel)
    at = next((place for place, step in enumerate(steps) if step["step"] == CUT), 0)
    was_cut = at > 0 and steps[at]["documents"] > steps[at - 1]["documents"]
    if not was_cut:
        return [_funnel("What was left after each step", steps, "Documents, and bytes of their text.")]
    words = f"{steps[at - 1]['documents']:,} documents were cut into {steps[at]['documents']:,} pieces; from here on"
    before = "Long documents are cut after these steps: see the next picture."
    whole = _funnel("Whole documents left after each step", steps[:at], before)
    pieces = _funnel("Pieces left after each step", steps[at:], f"{words} pieces are counted.")
    return [whole, pieces] if len(whole.steps) > 1 else [pieces]


def _funnel(title: str, steps: Sequence[Mapping[str, Any]], caption: str) -> Funnel:
    """The first step and those that took documents away; the others are named in the caption."""
    taking = [place == 0 or step["documents"] != steps[place - 1]["documents"] for place, step in enumerate(steps)]
    shown = [
        FunnelStep(name=step["step"], documents=step["documents"], bytes=step["bytes"])
        for step, took in zip(steps, taking)
        if took
    ]
    if idle := [step["step"] for step, took in zip(steps, taking) if not took]:
        caption += f" No documents were removed by {', '.join(idle)}."
    return Funnel(title=title, steps=shown, caption=caption)


def steps_table(funnel: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Documents after each step, in all and by source, and what the step does."""
    shown = list(names)[:SOURCES_SHOWN] if len(names) > 1 else []
    rows: list[list[Cell]] = []
    before: int | None = None
    for step in funnel["steps"]:
        parting = step["step"] in ENDS
        kept = step["documents"] / before if before and not parting and step["documents"] <= before else None
        own = [step["sources"].get(name, {}).get("documents", 0) for name in shown]
        rows.append([step["step"], step["documents"], kept, size(step["bytes"]), *own, meaning(step["step"])])
        before = step["documents"]
    more = len(names) - len(shown)
    caption = "Kept: of the documents of the step before."
    caption += f" {more} more sources have no column here." if shown and more > 0 else ""
    return Table(
        title="Documents after each step",
        columns=["step", "documents", "kept", "text", *shown, "what it does"],
        units=["", "", "%", "", *[""] * len(shown), ""],
        rows=rows,
        caption=caption,
    )


def rules_table(funnel: Mapping[str, Any]) -> Table:
    """What each rule took, the most first."""
    read = next((step["documents"] for step in funnel["steps"] if step["step"] == "found"), 0)
    rows = sorted(funnel["rejected"], key=lambda row: (-row["documents"], row["step"], row["rule"]))
    return Table(
        title="What each rule took",
        columns=["rule", "documents", "of all found", "text"],
        units=["", "", "%", ""],
        rows=[
            [f"{r['step']}/{r['rule']}", r["documents"], r["documents"] / read if read else None, size(r["bytes"])]
            for r in rows
        ],
        caption="The first rule that a document breaks is the one that counts.",
    )


def counts_table(funnel: Mapping[str, Any], card: Mapping[str, Any]) -> Table | None:
    """What steps changed or told of documents; personal data has a table of its own."""
    apart = {"pii"} if card.get("pii") else set()
    rows: list[list[Cell]] = [
        [step["step"], name.replace("_", " "), count]
        for step in funnel["steps"]
        if step["step"] not in apart
        for name, count in step.get("counts", {}).items()
    ]
    if not rows:
        return None
    return Table(title="What else the steps did", columns=["step", "what", "how often"], rows=rows)


def source_shares(card: Mapping[str, Any]) -> Mixture:
    """How the corpus divides between its sources."""
    rows = {
        label: {name: float(source["bytes"][part]) for name, source in card["sources"].items()}
        for label, part in (("training", "train"), ("held out", "held_out"))
    }
    return Mixture(title="Sources", rows=rows, unit="bytes", caption="By bytes of text.")


def source_table(card: Mapping[str, Any]) -> Table:
    """Every source with what it gives and where it is from."""
    tokens = "tokens" if card.get("tokens_by", {}).get("counted") else "tokens (estimate)"
    rows: list[list[Cell]] = [
        [
            name,
            source["documents"]["train"],
            size(source["bytes"]["train"]),
            source.get("words", {}).get("train"),
            source.get("tokens", {}).get("train"),
            source["documents"]["held_out"],
            source["licence"],
            shortened(source["origin"]),
        ]
        for name, source in card["sources"].items()
    ]
    return Table(
        title="Sources",
        columns=["source", "documents", "text", "words", tokens, "held out", "licence", "origin"],
        rows=rows,
        caption="Documents, text, words and tokens are those to train on.",
    )


def lengths(card: Mapping[str, Any]) -> BarChart | None:
    """Documents by their size."""
    rows = card["length_histogram"]
    if not rows:
        return None
    first = next(place for place, row in enumerate(rows) if row["documents"])
    rows = rows[first:]
    return BarChart(
        title="Lengths of documents",
        categories=[f"{size(row['from'])} to {size(row['to'])}" for row in rows],
        bars=[Bars(name="documents", values=[row["documents"] for row in rows])],
        caption=(
            f"Mean {size(card['mean_document_bytes'])}; each bar's documents are twice as long as the one above. {BOTH}"
        ),
    )


def language_shares(card: Mapping[str, Any]) -> Mixture | None:
    """How the corpus divides between languages, where they were told."""
    languages = card.get("languages", {})
    if not set(languages) - {UNKNOWN}:
        return None
    rows = {"": {name: float(each["bytes"]) for name, each in languages.items()}}
    return Mixture(title="Languages", rows=rows, unit="bytes", caption=f"As the language step told them. {BOTH}")


def domain_table(card: Mapping[str, Any], most: int = 30) -> Table | None:
    """The web hosts that most documents are from."""
    domains = card.get("domains")
    if not domains or not domains["documents"]:
        return None
    rows: list[list[Cell]] = [
        [row["host"], row["documents"], row["documents"] / domains["documents"], size(row["bytes"])]
        for row in domains["top"][:most]
    ]
    known = f"{domains['hosts']:,} hosts" if domains["complete"] else f"more than {domains['hosts']:,} hosts"
    caption = f"{domains['documents']:,} documents with a URL, from {known}. {BOTH}"
    return Table(
        title="Web hosts",
        columns=["host", "documents", "share", "text"],
        units=["", "", "%", ""],
        rows=rows,
        caption=caption,
    )


def span_table(card: Mapping[str, Any]) -> Table | None:
    """Eight words that stand in several documents."""
    found = card.get("top_spans")
    if not found or not found["spans"]:
        return None
    rows: list[list[Cell]] = [[row["text"], row["documents"], row["occurrences"]] for row in found["spans"]]
    every = "every one" if found["counted_one_in"] == 1 else f"one in {found['counted_one_in']:,}, chosen by hash,"
    return Table(
        title="Spans that come again",
        columns=["first eight words of a line or sentence", "documents", "occurrences"],
        rows=rows,
        caption=f"Of the spans {every} was counted. {BOTH}",
    )


def pii_table(card: Mapping[str, Any]) -> Table | None:
    """Personal data that was replaced in what stayed."""
    if not card.get("pii"):
        return None
    rows: list[list[Cell]] = [[kind, count] for kind, count in card["pii"].items()]
    return Table(title="Personal data replaced", columns=["kind", "how often"], rows=rows, caption=BOTH)


def quality(card: Mapping[str, Any]) -> BarChart | None:
    """Documents by the score of the quality classifier."""
    rows = card.get("quality_histogram")
    if not rows:
        return None
    return BarChart(
        title="Scores of the quality classifier",
        categories=[f"{row['from']:.2f} to {row['to']:.2f}" for row in rows],
        bars=[Bars(name="documents", values=[row["documents"] for row in rows])],
        caption=BOTH,
    )
