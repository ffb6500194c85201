"""Trying thresholds: the same sample every time, verdicts of both sides, and each kind of change told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpus_texts import prose

from luopan.corpus import trial_sample as sample_module
from luopan.corpus.config import CurateConfig
from luopan.corpus.document import Document, Rejected
from luopan.corpus.select import key
from luopan.corpus.source_config import FileSource
from luopan.corpus.trial import Drawn, compare, draw
from luopan.corpus.trial_sample import shared, smallest_of, spread
from luopan.errors import DataError

LONG, MIDDLE, SHORT = prose(1, 200), prose(2, 60), prose(3, 20)


def documents(**texts: str) -> Drawn:
    return Drawn([Document(f"files/{name}", text, "files") for name, text in texts.items()])


@dataclass(frozen=True)
class Piece:
    """Stands for a split: so many documents of a source."""

    source: FileSource
    number: int
    documents: int
    bytes: int


def pieces(name: str, count: int, each: int, size: int = 1000) -> list[Piece]:
    return [Piece(FileSource(path=name, name=name), number, each, size) for number in range(count)]


def read(piece: Piece) -> Iterator[Document | Rejected]:
    name = piece.source.name
    yield Rejected(f"{name}/bad{piece.number}", name, "read", "json")
    for row in range(piece.documents):
        yield Document(f"{name}/{piece.number}#{row}", "x" * 100, name)


# ---------------------------------------------------------------- the sample


def test_a_sample_is_spread_over_sources_by_size_and_over_their_splits() -> None:
    planned = [*pieces("big", 40, 50, 3000), *pieces("small", 4, 50, 1000)]
    drawn = draw([], 124, lambda sources, size: planned, read)
    names = [document.id.split("#")[0] for document in drawn.documents]
    assert len(names) == pytest.approx(124, abs=2)
    assert sum(name.startswith("small") for name in names) == 4
    touched = {name for name in names if name.startswith("big")}
    assert len(touched) == sample_module.MOST_SPLITS
    numbers = sorted(int(name.split("/")[1]) for name in touched)
    assert numbers[0] < 4 and numbers[-1] > 35
    assert drawn.unread == len(touched) + 4


def test_a_sample_is_the_same_every_time_and_not_the_first_rows() -> None:
    first = draw([], 5, lambda sources, size: pieces("a", 1, 200), read)
    again = draw([], 5, lambda sources, size: pieces("a", 1, 200), read)
    assert first == again and len(first.documents) == 5
    everything = [item for item in read(pieces("a", 1, 200)[0]) if isinstance(item, Document)]
    smallest = sorted(everything, key=lambda document: key("trial", document.id))[:5]
    assert first.documents == [document for document in everything if document in smallest]


def test_sources_of_unknown_size_have_a_share() -> None:
    planned = [*pieces("known", 1, 500, 1000), *pieces("hub", 1, 500, 0)]
    drawn = draw([], 40, lambda sources, size: planned, read)
    assert sum(document.source == "hub" for document in drawn.documents) == 20


def test_fewer_documents_than_asked_for_are_all_taken() -> None:
    assert len(draw([], 1000, lambda sources, size: pieces("a", 3, 7), read).documents) == 21


def test_a_split_is_not_read_to_its_end_where_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_module, "MOST_CHARACTERS", 1000)
    stream = iter([Document(f"a/{number}", "x" * 100, "a") for number in range(500)])
    found = smallest_of(stream, 3)
    assert len(found.documents) == 3 and len(found.unread) == 0
    assert found.seen == 11 and not found.whole
    assert len(list(stream)) > 480


def test_no_document_is_an_error() -> None:
    with pytest.raises(DataError, match="no document could be read") as caught:
        draw([], 5, lambda sources, size: pieces("a", 1, 0), read)
    assert "1 × read/json, such as a/bad0" in str(caught.value)


def test_a_column_that_is_missing_is_named_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 3)
    with pytest.raises(DataError, match="no column 'text'") as caught:
        draw([FileSource(path=str(tmp_path / "a.jsonl"))], 10)
    assert "3 × read/column" in str(caught.value) and "--text-column NAME" in str(caught.value)


def test_what_a_small_source_cannot_give_goes_to_the_others() -> None:
    planned = [*pieces("tiny", 1, 3, 1000), *pieces("a", 1, 400, 1000), *pieces("b", 1, 400, 1000)]
    drawn = draw([], 300, lambda sources, size: planned, read)
    names = [document.source for document in drawn.documents]
    assert len(names) == 300 and names.count("tiny") == 3 and abs(names.count("a") - names.count("b")) <= 1
    assert drawn.seen == 803 and drawn.whole and drawn.unread == 3
    assert drawn.reasons == ("3 × read/json, such as tiny/bad0: json",)


def test_what_a_small_split_cannot_give_goes_to_the_others_of_its_source() -> None:
    uneven = [Piece(FileSource(path="a", name="a"), n, documents, 1000) for n, documents in enumerate((2, 1, 300))]
    drawn = draw([], 90, lambda sources, size: uneven, read)
    assert len(drawn.documents) == 90 and drawn.seen == 303
    many = pieces("a", 40, 1)  # sixteen are looked at first, then others
    drawn = draw([], 30, lambda sources, size: many, read)
    assert len(drawn.documents) == 30 and not drawn.whole


def test_shared_gives_none_more_than_it_has_room_for() -> None:
    assert shared(10, {"a": 2, "b": 50, "c": 50}, {}) == {"a": 2, "b": 4, "c": 4}
    assert shared(10, {"a": 1, "b": 2}, {}) == {"a": 1, "b": 2} and shared(0, {"a": 5}, {}) == {}
    assert shared(9, {"a": 50, "b": 50}, {"a": 2.0, "b": 1.0}) == {"a": 6, "b": 3}


def test_spread_takes_evenly() -> None:
    assert spread(range(10), 2) == [2, 7] and spread(range(3), 5) == [0, 1, 2]


def test_real_files_are_drawn_from(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02d}.txt").write_text(prose(number, 60))
    drawn = draw([FileSource(path=str(tmp_path))], 10)
    assert len(drawn.documents) == 10 and drawn.documents[0].source == "files"


# ---------------------------------------------------------------- the comparison


def quality(least: int) -> CurateConfig:
    return CurateConfig.model_validate({"gopher_repetition": None, "gopher_quality": {"min_words": least}})


def test_each_kind_of_change_is_told_apart() -> None:
    drawn = documents(long=LONG, middle=MIDDLE, short=SHORT, signs="# @ ! " * 60)
    stricter = compare(drawn, quality(50), quality(100))
    assert [change.id for change in stricter.newly_rejected] == ["files/middle"]
    change = stricter.newly_rejected[0]
    assert change.before is None and change.after is not None and change.text == MIDDLE
    assert (change.after.rule, change.after.threshold) == ("min_words", 100.0)
    assert stricter.newly_kept == [] and len(stricter.changes) == 1
    looser = compare(drawn, quality(100), quality(10))
    assert {change.id for change in looser.newly_kept} == {"files/middle", "files/short"}
    assert looser.newly_kept[0].before is not None and looser.newly_kept[0].before.rule == "min_words"


def test_another_reason_is_no_change_of_the_verdict() -> None:
    repeated = "\n".join(["the same line of words again"] * 8)
    before = CurateConfig.model_validate({"gopher_quality": {"min_words": 100}, "gopher_repetition": None})
    after = CurateConfig.model_validate({"gopher_quality": {"min_words": 10}})
    trial = compare(documents(a=repeated), before, after)
    assert [change.id for change in trial.other_reason] == ["files/a"]
    assert trial.newly_kept == trial.newly_rejected == []


def test_the_funnel_of_both_sides_counts_documents_and_bytes() -> None:
    trial = compare(documents(long=LONG, short=SHORT), quality(50), quality(10))
    assert trial.before.left["read"] == [2, len(LONG) + len(SHORT)]
    assert trial.before.left["gopher_quality"] == [1, len(LONG.strip())]
    assert trial.after.left["gopher_quality"][0] == 2
    assert trial.steps[0] == "read" and trial.steps[-1] == "gopher_quality"


def test_a_step_of_one_side_stands_in_its_place() -> None:
    without = CurateConfig.model_validate({"gopher_repetition": None})
    trial = compare(documents(a=LONG), without, CurateConfig())
    assert trial.steps.index("gopher_repetition") == trial.steps.index("gopher_quality") - 1
    assert "gopher_repetition" not in trial.before.left


def test_texts_that_change_are_counted() -> None:
    off = CurateConfig.model_validate({"normalise": None})
    trial = compare(documents(a=LONG + "  \r\nmore\u200b words"), CurateConfig(), off)
    assert trial.other_texts == 1 and trial.changes == []


def test_pieces_that_were_cut_elsewhere_are_not_compared() -> None:
    small, large = (CurateConfig.model_validate({"max_document_bytes": size}) for size in (600, None))
    trial = compare(documents(a=LONG), small, large)
    assert trial.unmatched == len(trial.before.kept) + len(trial.before.rejected) + 1 and trial.changes == []


def test_each_source_has_its_own_steps() -> None:
    given = {"gopher_quality": {"min_words": 50}, "per_source": {"talk": {"gopher_quality": {"min_words": 5}}}}
    after = CurateConfig.model_validate(given)
    drawn = Drawn([Document("talk/1", SHORT, "talk"), Document("files/1", SHORT, "files")])
    assert [change.id for change in compare(drawn, quality(50), after).newly_kept] == ["talk/1"]
