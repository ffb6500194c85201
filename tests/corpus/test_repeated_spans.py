"""Spans that are repeated in a row, against a slow search; and the sample."""

from __future__ import annotations

import random

import pytest
from corpus_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.dedup_config import SampleConfig, SpanConfig
from luopan.corpus.document import Document
from luopan.corpus.steps.repeated_spans import repeated_spans
from luopan.corpus.steps.sample import place_of, sample


def batch_of(*texts: str) -> DocumentBatch:
    return DocumentBatch.of([Document(str(n), text, "s") for n, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("span", "period"), [("spam", 1), ("buy now", 2), ("0,", 2), (" ".join("abcdefghijklm"), 13), ("哈", 1), ("| ", 1)]
)
@pytest.mark.parametrize("front", ["", "some words before "])
def test_thirty_two_in_a_row_are_too_many(span, period, front):
    many, few = (front + " ".join([span] * times) + " after." for times in (32, 31))
    outcome = repeated_spans(batch_of(prose(), few, many), SpanConfig())
    assert outcome.batch.ids == ["0", "1"]
    (found,) = outcome.rejected
    assert (found.id, found.step, found.rule) == ("2", "repeated_spans", "max_repeats")
    assert (found.value, found.threshold) == (32, 31)
    assert found.detail.startswith("32 times in a row: ") and span.split()[-1] in found.detail
    assert (len(repeated_spans(batch_of(many), SpanConfig(max_span=period)).rejected)) == 1
    if period > 1:
        assert repeated_spans(batch_of(many), SpanConfig(max_span=period - 1)).rejected == []


def test_what_is_no_repeated_span():
    table = "\n".join("| --- | ---- |" + f" row {n} {n * n} |" for n in range(40))
    rule = "-" * 200 + "\n" + "=" * 200
    longer = " ".join(" ".join(chr(97 + n) for n in range(14)) for _ in range(40))  # 14 words
    apart = [" ".join(["spam"] * 20)] * 2  # at the end of one document and the beginning of the next
    assert repeated_spans(batch_of(table, rule, longer, *apart, "", "one"), SpanConfig()).rejected == []


def slow_most(tokens: list[str], max_span: int) -> int:
    most = 1
    for period in range(1, max_span + 1):
        for start in range(len(tokens)):
            times = 1
            while tokens[start + times * period : start + (times + 1) * period] == tokens[start : start + period]:
                times += 1
                if start + times * period > len(tokens):
                    break
            if start + period <= len(tokens):
                most = max(most, times)
    return most


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("ab,"), max_size=24), max_size=5),
    st.integers(2, 5),
    st.integers(1, 4),
)
def test_the_fast_search_leaves_nothing_out(documents, max_repeats, max_span):
    config = SpanConfig(max_repeats=max_repeats, max_span=max_span)
    outcome = repeated_spans(batch_of(*(" ".join(tokens) for tokens in documents)), config)
    found = {item.id: item.value for item in outcome.rejected}
    slow = {str(row): slow_most(tokens, max_span) for row, tokens in enumerate(documents)}
    assert found == {id: most for id, most in slow.items() if most > max_repeats}
    assert outcome.batch.ids == [id for id in slow if id not in found]


def test_a_sample_is_a_function_of_the_ids():
    ids = [f"web/page-{n}#1" for n in range(4000)]
    random.Random(0).shuffle(ids)
    batch = DocumentBatch.of([Document(id, "text", "s") for id in ids])
    kept = sample(batch, SampleConfig(fraction=0.25))
    assert abs(len(kept.batch) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert len(kept.batch) + len(kept.rejected) == 4000
    more = set(sample(batch, SampleConfig(fraction=0.5)).batch.ids)
    assert set(kept.batch.ids) < more
    single = [
        id for id in ids if len(sample(DocumentBatch.of([Document(id, "", "s")]), SampleConfig(fraction=0.25)).batch)
    ]
    assert single == kept.batch.ids
    other = set(sample(batch, SampleConfig(fraction=0.25, seed=1)).batch.ids)
    assert 150 < len(other & set(kept.batch.ids)) < 350  # independent: a quarter of a quarter


def test_who_is_not_in_the_sample_is_named_without_the_text():
    out = sample(batch_of("text"), SampleConfig(fraction=1e-9)).rejected[0]
    assert (out.step, out.rule, out.threshold, out.text) == ("sample", "fraction", 1e-9, None)
    assert out.value == place_of("0", 0) and 0 <= out.value < 1 and out.bytes == 4
