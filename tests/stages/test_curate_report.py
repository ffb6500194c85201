"""The curate stage's part of the report: what the card and the funnel say, and nothing that was not measured."""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.card import data_card
from luopan.corpus.document import Document
from luopan.corpus.stats import CorpusStats
from luopan.report.data import Figure, RunReport, StageReport
from luopan.report.page import render
from luopan.stages.curate_report import curate_report, summary

HERE = {"licence": "MIT", "origin": "texts", "version": ""}
FUNNEL = {
    "steps": [
        {"step": name, "documents": count, "bytes": 10 * count, "sources": {}, "counts": counts}
        for name, count, counts in (("found", 9, {}), ("read", 8, {}), ("pii", 8, {"email": 4}), ("train", 8, {}))
    ],
    "rejected": [{"step": "read", "rule": "json", "documents": 1, "bytes": 3, "examples": ["a:3: json"]}],
    "notes": ["plays was left out"],
}


def a_report(**meta: object) -> StageReport:
    stats = CorpusStats()
    batch = DocumentBatch.of([Document(f"web/{n}", "one two three " * 9, "web", meta) for n in range(8)])
    stats.add(batch, "train")
    return curate_report("curate", FUNNEL, data_card({"web": HERE}, stats), [Figure(name="documents", after=8)])


def test_it_holds_funnel_sources_samples_and_what_was_set_aside() -> None:
    report = a_report()
    assert [picture.title for picture in report.pictures] == [
        "What was left after each step",
        "Sources",
        "Lengths of documents",
    ]
    assert [table.title for table in report.tables] == ["Sources", "What else the steps did", "Spans that come again"]
    assert [sample.group for sample in report.samples] == ["web"]
    assert report.set_aside[0].reason == "read: json" and report.set_aside[0].examples == ["a:3: json"]
    assert "corpus/card.html" in report.notes[0].text and report.notes[0].level == "info"
    assert report.notes[1].text == "plays was left out" and report.notes[1].level == "warning"
    assert report.figures[0].name == "documents"


def test_it_shows_languages_hosts_and_personal_data_where_they_are_known() -> None:
    report = a_report(language="en", url="http://example.org", pii={"email": 1}, quality=0.4)
    titles = {item.title for item in [*report.pictures, *report.tables]}
    assert {"Languages", "Web hosts", "Personal data replaced", "Scores of the quality classifier"} <= titles


def test_it_can_be_kept_and_drawn() -> None:
    report = StageReport.model_validate_json(a_report(language="en").model_dump_json())
    assert "Lengths of documents" in render(RunReport(name="r", stages=[report]))


def test_the_summary_calls_an_estimate_one() -> None:
    card = data_card({"web": HERE}, CorpusStats())
    assert "(about 0 tokens)" in summary(card)
    assert "(0 tokens)" in summary({**card, "tokens_by": {"counted": True}})
