"""The data card's page and pictures: whole in themselves, text escaped, nothing shown that was not measured."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
import yaml
from corpus_texts import prose

import luopan
from luopan.corpus import card_pictures as pictures
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.card import data_card, origins
from luopan.corpus.card_made import made_table, meaning, note_of, shortened
from luopan.corpus.card_page import card_html
from luopan.corpus.chain import LATE, LOCAL, funnel_steps
from luopan.corpus.config import CurateConfig
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
    for title in ("Languages", "Web hosts", "Scores of the quality", "Personal data", "How it was made"):
        assert title not in plain
    known = {"language": "en", "url": "https://example.org/x", "quality": 0.5, "pii": {"email": 3}}
    full = card_html(a_card(**known), a_funnel())
    for title in ("Languages", "Web hosts", "Scores of the quality", "Personal data replaced"):
        assert title in full
    assert "example.org" in full


def test_a_card_of_nothing_is_still_a_page() -> None:
    empty = data_card({"web": HERE}, CorpusStats())
    page = card_html(empty, {"steps": [], "rejected": [], "notes": []})
    assert "<dt>Documents</dt><dd>0</dd>" in page and "no rows" in page
    assert empty["found"] is None and empty["length_histogram"] == [] and empty["mean_document_bytes"] == 0


def test_the_funnel_is_one_picture_unless_documents_were_cut() -> None:
    (whole,) = pictures.funnels(a_funnel())
    assert [step.name for step in whole.steps] == ["found", "read", "pieces", "c4"]
    assert whole.caption.endswith("No documents were removed by capped.")
    whole_before_the_cut = a_funnel(pieces=300)
    whole_before_the_cut["steps"][1]["documents"] = 100
    assert [picture.title for picture in pictures.funnels(whole_before_the_cut)] == ["Pieces left after each step"]
    before, after = pictures.funnels(a_funnel(pieces=300))
    assert [step.name for step in before.steps] == ["found", "read"]
    assert [step.name for step in after.steps] == ["pieces", "c4"]
    assert "95 documents were cut into 300 pieces" in after.caption


def test_steps_by_source_and_what_of_each_step_before_is_left() -> None:
    shown = pictures.steps_table(a_funnel(), ["web", "mail"])
    assert shown.columns[-3:] == ["web", "mail", "what it does"]
    rows = {cells[0]: cells for cells in shown.rows}
    assert rows["found"][2] is None and rows["read"][2] == 0.95 and rows["c4"][2] == 80 / 90
    assert rows["train"][2] is None and rows["held_out"][2] is None
    assert rows["c4"][4:6] == [45, 35] and "web furniture" in str(rows["c4"][6])
    assert {cells[0]: cells for cells in pictures.steps_table(a_funnel(300), []).rows}["pieces"][2] is None


def test_rules_are_ordered_by_what_they_took() -> None:
    rows = pictures.rules_table(a_funnel()).rows
    assert [cells[0] for cells in rows] == ["c4/min_sentences", "read/json"] and rows[0][1:3] == [10, 0.1]


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
    assert origins([FileSource(path="texts", max_bytes=9000)])["files"]["max_bytes"] == 9000


# ---------------------------------------------------------------- how it was made


def made(**given: Any) -> dict[str, Any]:
    card = a_card()
    stats = CorpusStats()
    config = CurateConfig.build({"workers": 3, "executor": "local", **given})
    return {**card, "made_by": data_card({"web": HERE}, stats, a_funnel(), config=config)["made_by"]}


def test_the_card_says_what_it_was_made_by_and_nothing_of_the_machine() -> None:
    said = made(preset="web", gopher_quality={"min_words": 30}, max_document_bytes=900)["made_by"]
    assert said["luopan"] == luopan.__version__ and said["settings"]["preset"] == "web"
    assert said["settings"]["gopher_quality"]["min_words"] == 30 and said["settings"]["c4"] == {}
    assert not {"workers", "executor", "gopher_repetition"} & set(said["settings"])
    assert json.loads(json.dumps(said)) == said
    assert a_card()["made_by"] is None


def test_the_page_says_how_the_corpus_was_made() -> None:
    card = made(preset="web", gopher_quality={"min_words": 30}, c4=None, per_source={"mail": {"fineweb": None}})
    rows = {str(cells[0]): str(cells[1]) for cells in made_table(card, a_funnel()).rows}  # type: ignore[union-attr]
    assert rows["luopan"] == luopan.__version__ and rows["preset"] == "web" and rows["c4"] == "off"
    assert rows["gopher_quality"].startswith("min_words 30") and rows["mail alone"] == "fineweb off"
    assert rows["pieces"] == "no limit" and rows["minhash"] == "defaults"
    page = card_html(card, a_funnel())
    assert "How it was made" in page and "<details><summary>As keys of a recipe" in page and "min_words: 30" in page
    assert "luopan corpus try SOURCE --preset web RULE=VALUE" in page
    assert "luopan corpus try SOURCE RULE=VALUE" in card_html(made(), a_funnel())
    assert "luopan corpus try SOURCE --preset NAME RULE=VALUE" in card_html(a_card(), a_funnel())


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "books", "exact": {"line": True}, "language": {"languages": ["en", "de"]}},
        {"preset": "web", "c4": None, "gopher_quality": {"max_symbol_ratio": 0.1}, "minhash": None},
        {"c4": {}, "per_source": {"a": {"c4": None}, "b": {"preset": "maths", "gopher_quality": None}}},
        {
            "preset": "maths",
            "gopher_repetition": {"max_duplicate_ngrams": {"5": 0.15}},
            "per_source": {"a": {"c4": {}}},
        },
    ],
)
def test_what_the_page_calls_the_settings_makes_the_same_configuration(given: dict[str, Any]) -> None:
    folded = re.search(r"<pre>(.*?)</pre>", card_html(made(**given), a_funnel()), re.DOTALL)
    assert folded is not None
    assert CurateConfig.build(yaml.safe_load(html.unescape(folded[1]))) == CurateConfig.build(given)


def test_only_what_says_that_something_is_missing_is_a_warning() -> None:
    missing = ["web has too few documents to hold one out", "plays was left out: not installed"]
    missing += [
        "gsm8k: 3 of 5 test items are looked for; 2 have fewer than 8 words",
        "nothing is left of web, of which 9",
    ]
    assert [note_of(text).level for text in missing] == ["warning"] * 4
    assert note_of("gsm8k: 1,319 of 1,319 test items are looked for").level == "info"
    assert note_of("3 document(s) have an id that came before: ~2, ~3 … was added to it").level == "info"


def test_long_places_are_shortened_on_the_page_alone() -> None:
    card = data_card({"web": {**HERE, "origin": "/home/me/data/text/web.jsonl"}}, CorpusStats(), a_funnel())
    assert pictures.source_table(card).rows[0][-1] == "…/text/web.jsonl"
    assert card["sources"]["web"]["origin"] == "/home/me/data/text/web.jsonl"
    assert shortened("texts/web.jsonl") == "texts/web.jsonl" and shortened("/a/b") == "/a/b"


def test_every_step_has_a_meaning() -> None:
    given = {name: {} for name in (*LOCAL, *LATE) if name not in ("pieces", "quality", "decontaminate", "sample")}
    given |= {"quality": {"model": "m", "min_score": 0.5}, "sample": {"fraction": 0.5}}
    given |= {"decontaminate": {"sets": {"a": {"path": "a", "columns": ["q"]}}}, "minhash": {}}
    steps = funnel_steps(CurateConfig.build(given))
    assert len(steps) > 20 and all(meaning(step) for step in steps)
