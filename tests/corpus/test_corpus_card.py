"""The data card's page and pictures: whole in themselves, text escaped, nothing shown that was not measured."""

from __future__ import annotations

import json
import re
from typing import Any

from corpus_texts import prose

from luopan.corpus import card_pictures as pictures
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.card import data_card, origins
from luopan.corpus.card_page import card_html
from luopan.corpus.document import Document
from luopan.corpus.source_config import CodeSource, FileSource, PackagedSource
from luopan.corpus.stats import CorpusStats

NASTY = "<script>alert('kept')</script> & <b>bold</b>"
REJECTED = {"id": "web/9", "source": "web", "where": "a:9", "value": 12.0, "threshold": 50.0, "detail": "", "bytes": 9}
HERE = {"licence": "CC-BY-4.0", "origin": "texts", "version": ""}


def row(step: str, documents: int, **sources: int) -> dict[str, Any]:
    by_source = {name: {"documents": count, "bytes": 100 * count} for name, count in sources.items()}
    return {"step": step, "documents": documents, "bytes": 100 * documents, "sources": by_source, "counts": {}}


def a_funnel(pieces: int = 90) -> dict[str, Any]:
    steps = [row("found", 100, web=60, mail=40), row("read", 95, web=55, mail=40), row("pieces", pieces, web=50)]
    steps += [row("c4", 80, web=45, mail=35), row("capped", 80), row("train", 70), row("held_out", 10)]
    steps[3]["counts"] = {"lines_dropped": 321}
    rejected = [
        {"step": "c4", "rule": "min_sentences", "documents": 10, "bytes": 999, "examples": ["a:1: min_sentences 2"]},
        {"step": "read", "rule": "json", "documents": 5, "bytes": 7, "examples": ["a:3: json: <i>bad</i>"]},
    ]
    return {"steps": steps, "rejected": rejected, "notes": ["plays was left out: not installed"]}


def a_card(several: bool = True, **meta: Any) -> dict[str, Any]:
    stats = CorpusStats()
    found = [Document(f"web/{n}", f"{NASTY} {prose(n, 40)}", "web", meta) for n in range(5)]
    found += [Document(f"mail/{n}", prose(50 + n, 400), "mail", meta) for n in range(3)] if several else []
    stats.add(DocumentBatch.of(found), "train")
    names = {"web": HERE, "mail": HERE} if several else {"web": HERE}
    card = data_card(names, stats, a_funnel())
    return {**card, "rejected_samples": [{"step": "c4", "rule": "min_sentences", **REJECTED, "text": NASTY}]}


def test_the_page_is_whole_in_itself_and_escapes_what_documents_say() -> None:
    page = card_html(a_card(), a_funnel(), "Mine <1>")
    assert page.startswith("<!doctype html>") and "Mine &lt;1&gt;" in page
    assert "<script" not in page and "<b>bold" not in page and "<i>bad" not in page
    assert "default-src &#x27;none&#x27;" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert page == card_html(a_card(), a_funnel(), "Mine <1>")


def test_the_page_shows_what_was_kept_and_what_was_rejected_and_why() -> None:
    page = card_html(a_card(), a_funnel())
    kept, rejected = page[page.index('id="kept"') :].split('id="rejected"')
    assert "alert(&#x27;kept&#x27;)" in kept and "mail/" in kept
    assert "c4/min_sentences: 10" in rejected and "12 (limit 50)" in rejected and "alert(" in rejected
    assert "a:3: json: &lt;i&gt;bad&lt;/i&gt;" in rejected  # no text of it, so the reason's example
    assert "plays was left out" in page and "lines dropped" in page and "Documents after each step" in page


def test_what_was_not_measured_is_not_on_the_page() -> None:
    plain = card_html(a_card(several=False), a_funnel())
    for title in ("Languages", "Web hosts", "Scores of the quality", "Personal data", "Documents after each step"):
        assert title not in plain
    known = {"language": "en", "url": "https://example.org/x", "quality": 0.5, "pii": {"email": 3}}
    full = card_html(a_card(**known), a_funnel())
    for title in ("Languages", "Web hosts", "Scores of the quality", "Personal data replaced"):
        assert title in full
    assert "example.org" in full


def test_a_card_of_nothing_is_still_a_page() -> None:
    empty = data_card({"web": HERE}, CorpusStats())
    assert "0 · 0" in card_html(empty, {"steps": [], "rejected": [], "notes": []}).replace("\u00a0B", "")
    assert empty["found"] is None and empty["length_histogram"] == [] and empty["mean_document_bytes"] == 0


def test_the_funnel_is_one_picture_unless_documents_were_cut() -> None:
    (whole,) = pictures.funnels(a_funnel())
    assert [step.name for step in whole.steps] == ["found", "read", "pieces", "c4", "capped"]
    before, after = pictures.funnels(a_funnel(pieces=300))
    assert [step.name for step in before.steps] == ["found", "read"]
    assert [step.name for step in after.steps] == ["pieces", "c4", "capped"]
    assert "95 documents were cut into 300 pieces" in after.caption


def test_steps_by_source_and_what_of_each_step_before_is_left() -> None:
    shown = pictures.steps_table(a_funnel(), ["web", "mail"])
    assert shown.columns[-2:] == ["web", "mail"]
    rows = {cells[0]: cells for cells in shown.rows}
    assert rows["found"][2] is None and rows["read"][2] == 0.95 and rows["c4"][2] == 80 / 90
    assert rows["train"][2] is None and rows["held_out"][2] is None
    assert rows["c4"][4:] == [45, 35]


def test_rules_are_ordered_by_what_they_took() -> None:
    rows = pictures.rules_table(a_funnel()).rows
    assert [cells[1] for cells in rows] == ["min_sentences", "json"] and rows[0][3] == 0.1


def test_the_card_is_plain_json_and_keeps_every_source() -> None:
    card = data_card({"web": HERE, "empty": HERE}, CorpusStats(), a_funnel())
    assert json.loads(json.dumps(card)) == card
    assert list(card["sources"]) == ["web", "empty"] and card["sources"]["empty"]["documents"]["train"] == 0
    assert card["found"] == {"documents": 100, "bytes": 10_000}


def test_origins_say_licence_and_place() -> None:
    sources = (
        FileSource(path="texts", name="mine", licence="MIT"),
        CodeSource(code="src"),
        PackagedSource(packaged="docstrings"),
    )
    found = origins(sources, ["skills"])
    assert found["mine"] == {"licence": "MIT", "origin": "texts", "version": ""}
    assert found["code"]["licence"] == "not stated" and found["code"]["origin"] == "src"
    assert found["docstrings"]["version"] and found["skills"]["origin"] == "generated"
