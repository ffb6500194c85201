"""The published filters: each rule on a text made to break it and no other, figures worked by hand, slow and obvious
doubles, other scripts."""

from __future__ import annotations

import itertools
import random

import pytest
from corpus_texts import WORDS, prose
from pydantic import ValidationError

from luopan.corpus import english
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.config import CurateConfig
from luopan.corpus.document import Document
from luopan.corpus.filter_config import FineWebConfig, GopherQualityConfig, GopherRepetitionConfig
from luopan.corpus.findings import all_findings
from luopan.corpus.repetition import (
    RULES,
    duplicate_ngram_characters,
    highest_count,
    occurs,
    repeated_cover,
    top_ngram_characters,
)
from luopan.corpus.steps import fineweb as fineweb_rules
from luopan.corpus.steps import gopher_quality as quality_rules
from luopan.corpus.steps.fineweb import fineweb
from luopan.corpus.steps.gopher_quality import gopher_quality
from luopan.corpus.steps.gopher_repetition import gopher_repetition
from luopan.corpus.words import Reading, split_words

CONFIG = CurateConfig()
REPETITION, QUALITY = GopherRepetitionConfig(), GopherQualityConfig()


def batch_of(*texts):
    return DocumentBatch.of(Document(f"d{number}", text, "made") for number, text in enumerate(texts))


def first_finding(text, repetition=REPETITION, quality=QUALITY):
    found = all_findings(text, CurateConfig(gopher_repetition=repetition, gopher_quality=quality))
    return found[0].finding if found else None


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


def test_what_is_remembered_changes_nothing(monkeypatch):
    long = "x" * (english.LONGEST + 1)
    text = f"two words {long} two 3,141 don't words"
    once = english.split_english(text)
    assert once == ["two", "words", long, "two", "3,141", "do", "n't", "words"]
    assert long not in english.known_pieces() and "words" in english.known_pieces()
    monkeypatch.setattr(english, "KNOWN", 1)
    english.known_pieces().clear()
    assert english.split_english(text) == once == english.split_english(text)
    assert len(english.known_pieces()) == 1


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
    quality = GopherQualityConfig(max_words=100) if rule == "max_words" else QUALITY
    name, _, n = rule.partition(".")
    owner = "repetition" if name in GopherRepetitionConfig.model_fields else "quality"
    block = {"repetition": REPETITION if owner == "repetition" else None, "quality": quality}
    found = first_finding(BROKEN[rule], **block)
    assert found is not None and found.rule == rule
    assert (found.value < found.threshold) == rule.startswith("min_")
    # The very same value as the threshold is allowed, and null turns the rule off.
    if n:
        relaxed = {name: {**getattr(REPETITION, name), int(n): found.value}}
    else:
        relaxed = {name: found.value if "words" not in name or "alphabetic" in name else int(found.value)}
    after = first_finding(BROKEN[rule], **{**block, owner: block[owner].model_copy(update=relaxed)})
    assert after is None or after.rule != rule


def off(kind):
    """A block with every rule turned off."""
    empty = {name: {} if "ngram" in name else None for name in kind.model_fields if name.startswith(("max_", "min_"))}
    return kind(**{name: value for name, value in empty.items() if name != "min_top_ngram_count"})


def test_everything_can_be_turned_off():
    config = CurateConfig(
        gopher_repetition=off(GopherRepetitionConfig),
        gopher_quality=off(GopherQualityConfig),
        fineweb=off(FineWebConfig),
    )
    for text in [*BROKEN.values(), "", "x", "。。。"]:
        assert all_findings(text, config) == []


def test_steps_reject_with_rule_value_and_threshold():
    batch = batch_of(prose(), BROKEN["min_words"], BROKEN["max_duplicate_lines"])
    outcome = gopher_quality(batch, QUALITY)
    assert outcome.batch.ids == ["d0", "d2"]
    (rejected,) = outcome.rejected
    assert (rejected.step, rejected.rule, rejected.value, rejected.threshold) == ("gopher_quality", "min_words", 6, 50)
    assert rejected.text == BROKEN["min_words"]
    outcome = gopher_repetition(outcome.batch, REPETITION)
    assert outcome.batch.ids == ["d0"]
    assert [(r.id, r.step, r.rule) for r in outcome.rejected] == [("d2", "gopher_repetition", "max_duplicate_lines")]


def test_paragraph_rules_count_paragraphs():
    text = "\n\n".join([*prose(words=300).split("\n"), *["Read more here"] * 6])
    found = first_finding(text, GopherRepetitionConfig(max_duplicate_lines=None, max_duplicate_line_characters=None))
    assert found is not None and found.rule == "max_duplicate_paragraphs"
    assert found.value == pytest.approx(5 / 16)  # ten of prose, six equal ones of which five were there before


def test_stop_words_are_for_those_who_ask():
    assert first_finding(prose()) is None
    found = first_finding(prose(), quality=GopherQualityConfig(min_stop_words=2))
    assert found is not None and (found.rule, found.value) == ("min_stop_words", 0)
    assert first_finding(prose() + " The end of it.", quality=GopherQualityConfig(min_stop_words=1)) is None


def test_punctuation_counts_as_words_for_those_who_ask():
    text = prose().replace(" ", " - ")
    assert first_finding(text) is None
    found = first_finding(text, quality=GopherQualityConfig(symbols_are_words=True))
    assert found is not None and found.rule == "min_alphabetic_words"
    tokens = text.split()
    words = sum(token != "-" for token in tokens)
    ends = words // 10  # a full stop after every ten words, a token of its own
    assert found.value == pytest.approx(words / (len(tokens) + ends))


def test_a_top_ngram_has_to_occur_often_enough():
    text = "extraordinarily unconventional " + "a b c d e f g h i j"
    once = GopherRepetitionConfig(min_top_ngram_count=1)
    assert Reading(text).size == len(text)
    hits = [rule(Reading(text), once) for rule in RULES]
    assert [hit.rule for hit in hits if hit] == ["max_top_ngram.2"]
    assert hits[2].value == pytest.approx(30 / len(text))  # the first pair stands for all that occur once
    assert not any(rule(Reading(text), REPETITION) for rule in RULES)


def test_text_without_spaces_is_judged_by_its_own_measure():
    # Eighty different characters are about forty words, a hundred and twenty are sixty.
    characters = [chr(0x4E00 + 37 * n) for n in range(120)]
    short, long = "".join(characters[:80]), "".join(characters)
    found = first_finding(short)
    assert found is not None and (found.rule, found.value) == ("min_words", 40)
    assert first_finding(long, quality=GopherQualityConfig(min_stop_words=2)) is None


def test_figures_worked_by_hand():
    reading = Reading("one two, one two, three")
    # Tokens: one two , one two , three. "one two" and "two ," and ", one"/", three": the first pair that occurs twice.
    assert (highest_count(reading, 2), top_ngram_characters(reading, 2, 2)) == (2, 2 * len("one two"))
    # 2-grams that occurred before: "one two" at the fourth token (6 characters), then the search is at ", three": new.
    assert duplicate_ngram_characters(reading, 2) == 6
    assert reading.tally.words == 5 and reading.tally.symbol_characters == 2
    assert reading.tally.word_characters == 3 * 4 + 5
    assert reading.tally.longest == 5
    mixed = Reading("東・京 go ２３ ３ ☃☃ x²").tally
    assert mixed == (6, 2, 4, 2 + 2 + 2 + 1 + 2, 1 + 2, 2)


def slow_counts(tokens, n):
    grams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    return {gram: grams.count(gram) for gram in grams}


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
    for n in [*range(2, 11), 3, 7, 6]:
        counts = slow_counts(tokens, n)
        most = max(counts.values(), default=0)
        first = next((gram for gram in counts if counts[gram] == most), ())
        assert top_ngram_characters(reading, n, highest_count(reading, n)) == len(" ".join(first)) * most
        assert [occurs(reading, n, times) for times in range(1, 70)] == [most >= times for times in range(1, 70)]
        slow = slow_duplicates(tokens, n)
        assert duplicate_ngram_characters(reading, n) == slow
        assert repeated_cover(reading, n, enough=-1) >= slow


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("least", [1, 2, 9])
def test_the_bounds_change_no_verdict(seed, least):
    source = random.Random(seed)
    text = prose(seed, words=100) + " " + " ".join([" ".join(source.choices(WORDS, k=8))] * source.randint(1, 12))
    config = GopherRepetitionConfig(min_top_ngram_count=least)
    tokens = Reading(text).tokens

    def top(n):
        counts = slow_counts(tokens, n)
        most = max(counts.values())
        gram = next(gram for gram in counts if counts[gram] == most)
        return len(" ".join(gram)) * most * (most >= least)

    slow = [
        name
        for name, limits, measure in (
            ("max_top_ngram", config.max_top_ngram, top),
            ("max_duplicate_ngrams", config.max_duplicate_ngrams, lambda n: slow_duplicates(tokens, n)),
        )
        if any(measure(n) / len(text) > most for n, most in limits.items())
    ]
    findings = [rule(Reading(text), config) for rule in RULES]
    fast = [found.rule.split(".")[0] for found in findings if found is not None]
    assert [name for name in fast if "gram" in name] == slow


@pytest.mark.parametrize("text", ["", " ", "\n\n", "!", "a", "漢", "\u0301", "a\n\nb"])
def test_every_rule_bears_a_tiny_text(text):
    everything = GopherQualityConfig(min_stop_words=1)
    once = GopherRepetitionConfig(min_top_ngram_count=0, english_words=True)
    for split in (split_words, english.split_english):
        for rules, config in ((RULES, once), (quality_rules.RULES, everything), (fineweb_rules.RULES, FineWebConfig())):
            for rule in rules:
                rule(Reading(text, split), config)


def test_fineweb_rules_on_lines():
    lines = prose(words=300).split("\n")
    sound = "\n".join(lines)
    menu = "\n".join(line.rstrip(".") for line in lines)
    short = "\n".join([*lines, *(f"Item number {n}." for n in range(21))])
    double = "\n".join([*lines, *lines[:1]])
    airy = "\n\n\n\n\n\n\n\n\n".join(" ".join(line.split()[:15]) + "." for line in lines)
    outcome = fineweb(batch_of(sound, menu, short, double, airy), FineWebConfig())
    assert outcome.batch.ids == ["d0"]
    figures = {rejected.rule: (rejected.id, rejected.value) for rejected in outcome.rejected}
    assert figures["min_terminal_lines"] == ("d1", 0)
    assert figures["max_short_lines"] == ("d2", pytest.approx(21 / 31))
    assert figures["max_duplicate_line_characters"] == ("d3", pytest.approx(len(lines[0]) / (len(double) - 10)))
    # 15 words and two full stops a line.
    assert figures["max_newlines_per_word"] == ("d4", pytest.approx(9 * 9 / (10 * 17)))


def test_fineweb_asks_thai_for_no_marks_and_measures_chinese_by_its_own_length():
    thai = "\n".join("เมื่อวานนี้เราไปตลาดกับเพื่อนและซื้อผลไม้หลายอย่างกลับมาบ้าน" + "กขคงจฉชซ"[n] for n in range(8))
    assert fineweb(batch_of(thai), FineWebConfig()).rejected == []
    chinese = [f"今天我们一起去市场买了{chr(0x4E00 + 31 * n)}很多东西。" for n in range(8)]  # 17 characters each
    assert fineweb(batch_of("\n".join(chinese)), FineWebConfig()).rejected == []
    short = [line[:5] + "。" for line in (chr(0x5000 + 99 * n) * 5 for n in range(8))]
    (rejected,) = fineweb(batch_of("\n".join(short)), FineWebConfig()).rejected
    assert rejected.rule == "max_short_lines"


def test_a_key_without_effect_is_refused():
    with pytest.raises(ValidationError, match="short_line has no effect"):
        FineWebConfig(max_short_lines=None, short_line=20)
    with pytest.raises(ValidationError, match="min_top_ngram_count has no effect"):
        GopherRepetitionConfig(max_top_ngram={}, min_top_ngram_count=3)
    with pytest.raises(ValidationError, match="n has to be"):
        GopherRepetitionConfig(max_duplicate_ngrams={0: 0.1})


def test_in_chinese_two_characters_count_as_a_word_of_an_ngram():
    places = "东南西北山水云月风花雪雨春夏秋冬金木火土天地人和大小多少"
    # Six characters come again and again, each time with four others: half a phrase, as "as far as the" is in English.
    common = "".join(
        f"这个地方的人{places[n]}{places[-n]}{places[n * 3 % 28]}{places[n * 5 % 28]}。" for n in range(1, 20)
    )
    again = "".join(f"点击这里查看全部内容和更多的消息{places[n]}。" for n in range(20))
    config = GopherRepetitionConfig(max_top_ngram={})
    assert gopher_repetition(batch_of(common), config).rejected == []
    found = gopher_repetition(batch_of(again), config).rejected
    assert [item.rule for item in found] == ["max_duplicate_ngrams.5"]
