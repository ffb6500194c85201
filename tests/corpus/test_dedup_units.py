"""Repeated paragraphs and lines: what counts as one, who has it first, what is left of a document."""

from __future__ import annotations

import random

import numpy as np
import pytest
from dedup_files import Backwards, spread, together
from pydantic import ValidationError

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.dedup.units import repeated_units, unit_hashes, unit_spans, without_units
from luopan.corpus.dedup_config import ExactConfig
from luopan.corpus.document import Document
from luopan.corpus.executor import InProcess

PARAGRAPHS = ExactConfig(paragraph=True, min_unit_bytes=10, min_document_bytes=20)
LINES = ExactConfig(line=True, min_unit_bytes=10, min_document_bytes=20)
NOTICE = "This page is made available under the terms of a free licence."


def batch_of(texts: list[str]) -> DocumentBatch:
    return DocumentBatch.of([Document(str(n), text, "s") for n, text in enumerate(texts)])


def run(texts: list[str], config: ExactConfig, folder, cuts=(), executor=None, partitions=1):
    """All of it: hashes, the global question, the texts that are left."""
    counts, hashes = unit_hashes(texts, config)
    ends = np.concatenate(([0], np.cumsum(counts)))
    files = spread(folder, "units", hashes, [ends[cut] for cut in cuts])
    drop = together(repeated_units(files, folder, executor or InProcess(), partitions))
    return without_units(batch_of(texts), counts, drop, config)


@pytest.mark.parametrize(
    ("text", "paragraphs", "lines"),
    [
        ("one\ntwo\n\nthree", ["one\ntwo", "three"], ["one", "two", "three"]),
        ("\n\none\n \t\n\n  two\n", ["one", "  two\n"], ["one", " \t", "  two"]),
        ("", [], []),
        ("one", ["one"], ["one"]),
    ],
)
def test_units_of_a_text(text, paragraphs, lines):
    assert [text[a:b] for a, b in unit_spans(text, PARAGRAPHS)] == paragraphs
    assert [text[a:b] for a, b in unit_spans(text, LINES)] == lines


def test_short_units_blank_ones_and_headings_are_left_alone():
    text = f"# {NOTICE}\n\n{NOTICE}\n\nShort one\n\n          \n\n一二三四"
    count = lambda **options: unit_hashes([text], ExactConfig(paragraph=True, **options))[0].tolist()  # noqa: E731
    assert count() == [1]
    assert count(keep_headings=False) == [2]
    assert count(min_unit_bytes=12) == [2]  # the Chinese one has 12 bytes
    assert count(min_unit_bytes=13) == [1]
    assert count(min_unit_bytes=0) == [3]


def test_repeated_paragraphs_go_and_the_first_stays(tmp_path):
    texts = [
        f"The first document says something.\n\n{NOTICE}\n\nAnd it ends here.",
        f"Another one, with its own words.\n\n{NOTICE.upper()}",
        f"    indented = code(here)\n\n{NOTICE}\n\n    more = code(there)\n",
        "Nothing that was said before, at all.",
    ]
    outcome = run(texts, PARAGRAPHS, tmp_path)
    assert outcome.batch.texts == [
        texts[0],
        "Another one, with its own words.",
        "    indented = code(here)\n\n    more = code(there)",
        texts[3],
    ]
    assert outcome.counts["units_dropped"] == 2 and outcome.counts["documents_shortened"] == 2
    assert outcome.counts["bytes_dropped"] == sum(map(len, texts)) - sum(map(len, outcome.batch.texts))
    assert outcome.rejected == []


def test_a_line_is_dropped_within_its_paragraph_and_within_one_document(tmp_path):
    texts = [f"Something new.\n{NOTICE}\n  Something else.", f"{NOTICE}\nIt was said: the end is near.\n{NOTICE}"]
    outcome = run(texts, LINES, tmp_path)
    assert outcome.batch.texts == [texts[0], "It was said: the end is near."]
    assert outcome.counts["units_dropped"] == 2


def test_a_document_with_too_little_left_is_rejected_as_it_was(tmp_path):
    texts = [f"Words of its own here, enough.\n\n{NOTICE}", f"Too short.\n\n{NOTICE}", NOTICE, "Short itself."]
    outcome = run(texts, PARAGRAPHS, tmp_path)
    assert outcome.batch.ids == ["0", "3"]  # the last one lost nothing, so it stays
    short, empty = outcome.rejected
    assert (short.step, short.rule, short.value, short.threshold) == ("exact", "min_document_bytes", 10, 20)
    assert short.text == texts[1] and "1 of its paragraphs came before" in short.detail
    assert empty.value == 0
    nothing_left = run([NOTICE, NOTICE], PARAGRAPHS.model_copy(update={"min_document_bytes": 0}), tmp_path / "2")
    assert [item.id for item in nothing_left.rejected] == ["1"]


@pytest.mark.parametrize("partitions", [1, 5])
@pytest.mark.parametrize("cuts", [(), (10, 10, 35)])
def test_splits_and_partitions_change_nothing(tmp_path, cuts, partitions):
    source = random.Random(0)
    pool = [f"unit number {n} with some more words" for n in range(60)]
    texts = ["\n\n".join(source.sample(pool, source.randrange(6))) for _ in range(50)]
    seen: set[str] = set()
    expected = []
    for text in texts:
        left = []
        for unit in text.split("\n\n"):
            if unit not in seen:
                left.append(unit)
            seen.add(unit)
        expected.append("\n\n".join(left))
    config = PARAGRAPHS.model_copy(update={"min_document_bytes": 0})
    outcome = run(texts, config, tmp_path, cuts, Backwards(), partitions)
    kept = iter(outcome.batch.texts)
    assert [next(kept) for text, left in zip(texts, expected) if left or not text] == [
        left for text, left in zip(texts, expected) if left or not text
    ]


def test_verdicts_about_other_texts_are_noticed():
    counts, _ = unit_hashes([NOTICE, NOTICE], PARAGRAPHS)
    with pytest.raises(AssertionError, match="other documents"):
        without_units(batch_of([NOTICE]), counts, np.zeros(2, bool), PARAGRAPHS)
    with pytest.raises(AssertionError, match="not the one"):
        without_units(batch_of(["short", NOTICE]), counts, np.ones(2, bool), PARAGRAPHS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"document": False}, "exact: null"),
        ({"min_unit_bytes": 5}, "no effect without paragraph or line"),
        ({"keep_headings": False}, "no effect"),
        ({"paragraph": True, "line": True}, "choose one"),
    ],
)
def test_settings_without_effect_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ExactConfig(**options)
