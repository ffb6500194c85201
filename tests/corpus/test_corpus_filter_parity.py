"""Our verdicts and datatrove's: on made-up texts with its recorded reasons, with itself, and on real web text.

In `PARITY` our filters are set as datatrove's are; the documentation says how the defaults differ and why.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import filter_texts
import pytest

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.document import Document
from luopan.corpus.english import split_english
from luopan.corpus.filter_config import C4Config, FineWebConfig, GopherQualityConfig, GopherRepetitionConfig
from luopan.corpus.steps.c4 import c4
from luopan.corpus.steps.fineweb import fineweb
from luopan.corpus.steps.gopher_quality import gopher_quality
from luopan.corpus.steps.gopher_repetition import gopher_repetition

PARITY = {
    "gopher_repetition": (gopher_repetition, GopherRepetitionConfig(min_top_ngram_count=1, english_words=True)),
    "gopher_quality": (
        gopher_quality,
        GopherQualityConfig(min_stop_words=2, max_symbol_ratio=None, symbols_are_words=True, english_words=True),
    ),
    "c4": (c4, C4Config()),
    "c4_terminal": (c4, C4Config(terminal_punctuation="ascii")),
    "fineweb": (fineweb, FineWebConfig()),
}
# datatrove's reasons and the thresholds of ours that they stand for.
REASONS = {
    "dup_para_frac": "max_duplicate_paragraphs",
    "dup_para_char_frac": "max_duplicate_paragraph_characters",
    "dup_line_frac": "max_duplicate_lines",
    "dup_line_char_frac": "max_duplicate_line_characters",
    **{f"top_{n}_gram": f"max_top_ngram.{n}" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_duplicate_ngrams.{n}" for n in range(5, 11)},
    "gopher_short_doc": "min_words",
    "gopher_below_avg_threshold": "min_mean_word_length",
    "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_hashes": "max_hash_per_word",
    "gopher_too_many_ellipsis": "max_ellipsis_per_word",
    "gopher_too_many_bullets": "max_bullet_lines",
    "gopher_too_many_end_ellipsis": "max_ellipsis_lines",
    "gopher_below_alpha_threshold": "min_alphabetic_words",
    "gopher_enough_stop_words": "min_stop_words",
    "lorem_ipsum": "max_lorem_ipsum",
    "curly_bracket": "max_curly_brackets",
    "too_few_sentences": "min_sentences",
    "line_punct_ratio": "min_terminal_lines",
    "short_line_ratio": "max_short_lines",
    "char_dup_ratio": "max_duplicate_line_characters",
    "list_ratio": "max_newlines_per_word",
}


def ours(texts):
    """Our rule against each text by filter, None where it stays."""
    batch = DocumentBatch.of(Document(str(number), text, "made") for number, text in enumerate(texts))
    found = {}
    for name, (step, config) in PARITY.items():
        rules = {rejected.id: rejected.rule for rejected in step(batch, config).rejected}
        found[name] = [rules.get(str(number)) for number in range(len(texts))]
    return found


@pytest.fixture(scope="module")
def recorded():
    return [json.loads(line) for line in filter_texts.FILE.read_text(encoding="utf-8").splitlines()]


def test_the_made_up_texts_break_every_rule(recorded):
    reasons = Counter(reason for row in recorded for reason in row["datatrove"].values())
    assert set(REASONS) <= set(reasons), sorted(set(REASONS) - set(reasons))
    for name in PARITY:
        stay = sum(row["datatrove"][name] is None for row in recorded)
        assert 0.3 < stay / len(recorded) < 0.95


def test_verdicts_are_datatroves(recorded):
    found = ours([row["text"] for row in recorded])
    for name in PARITY:
        theirs = [row["datatrove"][name] for row in recorded]
        wrong = [
            (row["id"], reason, rule)
            for row, reason, rule in zip(recorded, theirs, found[name])
            if (reason is None) != (rule is None)
        ]
        assert len(wrong) <= 0.01 * len(recorded), wrong
        # The reasons are the same, too, where one text breaks one rule.
        same = sum((reason and REASONS[reason]) == rule for reason, rule in zip(theirs, found[name]))
        assert same >= 0.97 * len(recorded), name


def test_the_record_is_datatroves_own(recorded):
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    assert [(row["id"], row["text"]) for row in recorded] == list(filter_texts.texts())
    filters = filter_texts.theirs()
    for row in recorded[::12]:
        assert filter_texts.judged(row["text"], filters) == row["datatrove"], row["id"]


def test_english_words_are_spacys(recorded):
    pytest.importorskip("spacy")
    words = pytest.importorskip("datatrove.utils.text").split_into_words
    for row in recorded[::9]:
        assert split_english(row["text"]) == words(row["text"])
    hard = (
        "Don't stop, it's 3.14! I can't, you'd've cannot gonna; dont didnt youre. well-known 85% $5 US$5 U.S. Mr. "
        "Smith's http://a.com/b?c=d a@b.com. 1,000 6-inch 'quoted' (word/word) 10:30am 9am 10kg end.Next a--b “Yes!” "
        "COVID-19 24/7 and/or ... wait… its it's Well we'll were we're rock'n'roll e.g. A.B. #tag foo_bar [1] C++"
    )
    assert split_english(hard) == words(hard)


@pytest.mark.data
def test_verdicts_are_datatroves_on_real_web_text():
    folder = os.environ.get("LUOPAN_DATA")
    if not folder:
        pytest.skip("LUOPAN_DATA names no folder with text/web_c4_demo.jsonl")
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    lines = (Path(folder) / "text" / "web_c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    found, filters = ours(texts), filter_texts.theirs()
    theirs = [filter_texts.judged(text, filters) for text in texts]
    for name in PARITY:
        same = sum((their[name] is None) == (rule is None) for their, rule in zip(theirs, found[name]))
        print(f"{name}: {same} of {len(texts)} verdicts equal")
        assert same >= 0.99 * len(texts)
