"""Finding a corpus and paging through it, in folders of parts as the pipeline writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luopan.corpus import store
from luopan.corpus.browse import (
    find_corpus,
    open_corpus,
    rows_of_page,
    rule_wanted,
    source_wanted,
    with_rejected_samples,
)
from luopan.corpus.document import Document, Rejected
from luopan.errors import DataError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "curate" / "corpus"
    for name in (store.TRAIN, store.REJECTED_PARTS):
        (folder / name).mkdir(parents=True)
    for part in range(2):
        with store.Writer(folder / "train" / f"{part:05d}.parquet", store.DOCUMENTS) as writer:
            for n in range(5):
                writer.document(Document(f"web/{part}{n}", f"text {part}{n}", "web" if n % 2 else "mail", {"row": n}))
        with store.Writer(folder / "rejected" / f"{part:05d}.parquet", store.REJECTED) as lost:
            for n in range(5):
                rule = ("c4", "min_sentences") if n < 3 else ("c4", "max_lines")
                lost.rejected(Rejected(f"web/r{part}{n}", "web", *rule, 1.0, 2.0, text=f"gone {part}{n}"))
            lost.rejected(Rejected(f"mail/r{part}", "mail", "read", "json"))
    rows = [("c4", "max_lines", 4), ("c4", "min_sentences", 6), ("read", "json", 2)]
    funnel = {"steps": [], "notes": [], "rejected": [{"step": s, "rule": r, "documents": n} for s, r, n in rows]}
    (folder / "funnel.json").write_text(json.dumps(funnel))
    (folder / "card.json").write_text(json.dumps({"tokens_by": {}, "sources": {"web": {}, "mail": {}}}))
    return folder


def ids(folder: Path, chosen: dict[str, str], page: int = 1, size: int = 4) -> list[str]:
    return [row["id"] for row in rows_of_page(folder, chosen, page, size)[0]]


def test_a_corpus_is_found_by_its_folder_its_stage_and_its_run(corpus: Path) -> None:
    for where in (corpus, corpus.parent, corpus.parents[1]):
        assert find_corpus(where) == corpus
    (corpus.parents[1] / "curate.partial" / "corpus").mkdir(parents=True)
    (corpus.parents[1] / "curate.partial" / "corpus" / "card.json").write_text("{}")
    assert find_corpus(corpus.parents[1]) == corpus
    (corpus.parents[1] / "other" / "corpus").mkdir(parents=True)
    (corpus.parents[1] / "other" / "corpus" / "card.json").write_text("{}")
    with pytest.raises(DataError, match="several curate stages") as caught:
        find_corpus(corpus.parents[1])
    assert "other" in str(caught.value)


def test_what_is_no_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no corpus in this folder"):
        open_corpus(corpus / "train")
    with pytest.raises(DataError, match="no such folder"):
        open_corpus(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        open_corpus(corpus / "card.json")
    (corpus / "funnel.json").unlink()
    with pytest.raises(DataError, match="is missing"):
        open_corpus(corpus)
    (corpus / "funnel.json").write_text("{broken")
    with pytest.raises(DataError, match="cannot be read"):
        open_corpus(corpus)
    (corpus / "card.json").write_text("{}")
    with pytest.raises(DataError, match="older version"):
        open_corpus(corpus)


def test_pages_follow_each_other_over_the_parts(corpus: Path) -> None:
    chosen = {"step": "c4", "rule": "min_sentences"}
    rejected = corpus / "rejected"
    assert ids(rejected, chosen) == ["web/r00", "web/r01", "web/r02", "web/r10"]
    rows, total = rows_of_page(rejected, chosen, 2, 4)
    assert [row["id"] for row in rows] == ["web/r11", "web/r12"] and total == 6
    assert rows[0]["text"] == "gone 11" and rows[0]["threshold"] == 2.0
    with pytest.raises(DataError, match=r"no page 3: there are 2 pages \(6 documents\)"):
        rows_of_page(rejected, chosen, 3, 4)
    with pytest.raises(DataError, match=r"there is 1 page \(6 documents\)"):
        rows_of_page(rejected, chosen, 99, 10)


def test_unfinished_work_is_said_to_be_so(tmp_path: Path) -> None:
    folder = tmp_path / "curate.partial" / "corpus"
    (folder / ".curating").mkdir(parents=True)
    for where in (folder, folder.parent, tmp_path):
        with pytest.raises(DataError, match="this corpus is unfinished") as caught:
            find_corpus(where)
        assert "same command again" in str(caught.value)


def test_pages_of_a_step_of_a_source_and_of_what_was_kept(corpus: Path) -> None:
    assert len(ids(corpus / "rejected", {"step": "c4"}, size=99)) == 10
    assert ids(corpus / "rejected", {"source": "mail"}) == ["mail/r0", "mail/r1"]
    assert ids(corpus / "train", {"source": "web"}) == ["web/01", "web/03", "web/11", "web/13"]
    assert rows_of_page(corpus / "train", {}, 1, 1)[0][0]["meta"] == {"row": 0}
    assert ids(corpus / "held_out", {}) == []  # nothing was held out: no folder


def test_a_rule_that_took_nothing_is_refused_with_those_that_did(corpus: Path) -> None:
    found = open_corpus(corpus)
    assert rule_wanted(found, "all") == {} and rule_wanted(found, "c4") == {"step": "c4"}
    assert rule_wanted(found, "c4/max_lines") == {"step": "c4", "rule": "max_lines"}
    with pytest.raises(DataError, match="c4/min_words rejected nothing") as caught:
        rule_wanted(found, "c4/min_words")
    assert "c4/max_lines (4)" in str(caught.value) and "read/json" not in str(caught.value)
    with pytest.raises(DataError, match="fineweb rejected nothing") as caught:
        rule_wanted(found, "fineweb")
    assert "read/json (2)" in str(caught.value)
    assert source_wanted(found, "mail") == {"source": "mail"} and source_wanted(found, None) == {}
    with pytest.raises(DataError, match="no source 'x'"):
        source_wanted(found, "x")


def test_rejected_samples_are_looked_up_where_the_card_has_none(corpus: Path) -> None:
    card = with_rejected_samples(open_corpus(corpus))
    rules = [(each["step"], each["rule"]) for each in card["rejected_samples"]]
    assert rules == [("c4", "max_lines")] * 2 + [("c4", "min_sentences")] * 2 + [("read", "json")] * 2
    (corpus / "card.json").write_text(json.dumps({**card, "rejected_samples": [1]}))
    assert with_rejected_samples(open_corpus(corpus))["rejected_samples"] == [1]
