"""The filters: each rule on a text made to break it and no other, figures worked by hand, slow and obvious doubles."""

from __future__ import annotations

import itertools
import random

import pytest
from corpus_texts import WORDS, prose

from luopan.corpus.config import FilterConfig
from luopan.corpus.filters import RULES, all_findings, first_finding
from luopan.corpus.repetition import duplicate_ngram_characters, highest_count, repeated_cover, top_ngram_characters
from luopan.corpus.words import Reading, split_words

CONFIG = FilterConfig()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don’t stop, it's 3.14!", ["Don’t", "stop", ",", "it's", "3", ".", "14", "!"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("我们go到北京", ["我", "们", "go", "到", "北", "京"]),
        ("naïve cafe\u0301", ["naïve", "cafe\u0301"]),
        ("«mot»—fin", ["«", "mot", "»", "—", "fin"]),
        ("", []),
    ],
)
def test_words_of_many_scripts(text, tokens):
    assert split_words(text) == tokens


def test_ordinary_prose_passes():
    assert all_findings(prose(), CONFIG) == []


BROKEN = {
    "min_words": "Only a few words are here.",
    "max_words": prose(),
    "min_mean_word_length": " ".join(f"{a}{b}" for a, b in itertools.product("abcdefghij", "klmnopqrst")),
    "max_mean_word_length": " ".join("".join(pair) for pair in itertools.permutations(WORDS[:12], 2)),
    "max_symbol_ratio": "\n".join(f"{word} | == {n} :: ++ -> {n * 7} ** <> //" for n, word in enumerate(WORDS)),
    "max_hash_per_word": prose().replace(" ", " #", 30),
    "max_ellipsis_per_word": prose().replace(" ", "... ", 30),
    "max_bullet_lines": "\n".join(f"- {line}" for line in prose(words=300).split("\n")),
    "max_ellipsis_lines": "\n".join(f"{line}…" for line in prose(words=300).split("\n")),
    "min_alphabetic_words": " ".join(f"{word} {n * 7919 + 10000}" for n, word in enumerate(WORDS)),
    "max_duplicate_lines": prose(words=300) + "\nyes" * 20,
    "max_duplicate_line_characters": prose(words=300) + ("\n" + prose(5, words=30)) * 4,
    "max_top_ngram.2": prose(words=200) + " " + " ".join(f"{word} golden harbours" for word in WORDS[:40]),
    "max_duplicate_ngrams.5": prose(words=200) + " " + " ".join([prose(7, words=50).replace("\n", " ")] * 3),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_finds_what_it_is_for(rule):
    config = FilterConfig(max_words=100) if rule == "max_words" else CONFIG
    found = first_finding(BROKEN[rule], config)
    assert found is not None and found.rule == rule
    assert (found.value < found.threshold) == rule.startswith("min_")
    # The very same value as the threshold is allowed, and null turns the rule off.
    name, _, n = rule.partition(".")
    if n:
        relaxed = {name: {**getattr(config, name), int(n): found.value}}
    else:
        relaxed = {name: found.value if "words" not in name or "alphabetic" in name else int(found.value)}
    after = first_finding(BROKEN[rule], config.model_copy(update=relaxed))
    assert after is None or after.rule != rule


def test_everything_can_be_turned_off():
    off = FilterConfig(**{name: {} if "ngram" in name else None for name in FilterConfig.model_fields})
    for text in [*BROKEN.values(), "", "x", "。。。"]:
        assert all_findings(text, off) == []


def test_paragraph_rules_count_paragraphs():
    text = "\n\n".join([*prose(words=300).split("\n"), *["Read more here"] * 6])
    config = FilterConfig(max_duplicate_lines=None, max_duplicate_line_characters=None)
    found = first_finding(text, config)
    assert found is not None and found.rule == "max_duplicate_paragraphs"
    assert found.value == pytest.approx(5 / 16)  # ten of prose, six equal ones of which five were there before


def test_stop_words_are_for_those_who_ask():
    assert first_finding(prose(), CONFIG) is None
    found = first_finding(prose(), FilterConfig(min_stop_words=2))
    assert found is not None and (found.rule, found.value) == ("min_stop_words", 0)
    assert first_finding(prose() + " The end of it.", FilterConfig(min_stop_words=1)) is None


def test_text_without_spaces_is_judged_by_its_own_measure():
    # Eighty different characters are about forty words, a hundred and twenty are sixty.
    characters = [chr(0x4E00 + 37 * n) for n in range(120)]
    short, long = "".join(characters[:80]), "".join(characters)
    found = first_finding(short, CONFIG)
    assert found is not None and (found.rule, found.value) == ("min_words", 40)
    assert first_finding(long, FilterConfig(min_stop_words=2)) is None


def test_figures_worked_by_hand():
    reading = Reading("one two, one two, three")
    # Tokens: one two , one two , three. "one two" and "two ," and ", one"/", three": the first pair that occurs twice.
    assert (highest_count(reading, 2), top_ngram_characters(reading, 2, 2)) == (2, 2 * len("one two"))
    # 2-grams that occurred before: "one two" at the fourth token (6 characters), then the search is at ", three": new.
    assert duplicate_ngram_characters(reading, 2) == 6
    assert reading.tally.words == 5 and reading.tally.symbol_characters == 2
    assert reading.tally.word_characters == 3 * 4 + 5


def slow_top(tokens, n):
    grams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    most = max((grams.count(gram) for gram in grams), default=0)
    first = next((gram for gram in grams if grams.count(gram) == most), ())
    return len(" ".join(first)) * most if most > 1 else 0


def slow_duplicates(tokens, n):
    seen, total, at = set(), 0, 0
    while at + n <= len(tokens):
        gram = tuple(tokens[at : at + n])
        if gram in seen:
            total, at = total + len("".join(gram)), at + n
        else:
            seen.add(gram)
            at += 1
    return total


@pytest.mark.parametrize("seed", range(30))
def test_fast_ngrams_equal_slow_ones(seed):
    source = random.Random(seed)
    tokens = source.choices(["a", "bb", "ccc", "."][: source.randint(1, 4)], k=source.randint(0, 60))
    reading = Reading(" ".join(tokens))
    for n in range(2, 11):
        assert top_ngram_characters(reading, n, highest_count(reading, n)) == slow_top(tokens, n)
        slow = slow_duplicates(tokens, n)
        assert duplicate_ngram_characters(reading, n) == slow
        assert repeated_cover(reading, n, enough=-1) >= slow


@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_change_no_verdict(seed):
    source = random.Random(seed)
    text = prose(seed, words=100) + " " + " ".join([" ".join(source.choices(WORDS, k=8))] * source.randint(1, 12))
    reading = Reading(text)
    slow = [
        name
        for name, limits, measure in (
            ("max_top_ngram", CONFIG.max_top_ngram, slow_top),
            ("max_duplicate_ngrams", CONFIG.max_duplicate_ngrams, slow_duplicates),
        )
        if any(measure(reading.tokens, n) / len(text) > most for n, most in limits.items())
    ]
    fast = [finding.rule.split(".")[0] for finding in all_findings(text, CONFIG) if "ngram" in finding.rule]
    assert fast == slow


@pytest.mark.parametrize("text", ["", " ", "\n\n", "!", "a", "漢", "\u0301", "a\n\nb"])
def test_every_rule_bears_a_tiny_text(text):
    everything = FilterConfig(min_stop_words=1)
    for rule in RULES:
        rule(Reading(text), everything)


def test_verdicts_are_datatroves():
    """With their word splitter replaced by ours and the two differences that are meant turned off."""
    pytest.importorskip("datatrove")
    from datatrove.data import Document
    from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter

    config = FilterConfig(min_stop_words=2, max_symbol_ratio=None, min_alphabetic_words=None)
    texts = [*BROKEN.values(), *(prose(seed, words=200) + " the sea and the sky" for seed in range(5))]
    with pytest.MonkeyPatch.context() as patch:
        for module in (gopher_quality_filter, gopher_repetition_filter):
            patch.setattr(module, "split_into_words", lambda text, language: split_words(text))
        theirs = (
            gopher_quality_filter.GopherQualityFilter(max_non_alpha_words_ratio=None),
            gopher_repetition_filter.GopherRepetitionFilter(),
        )
        for text in texts:
            kept = all(filter.filter(Document(text=text, id="x")) is True for filter in theirs)
            assert kept == (first_finding(text, config) is None)
