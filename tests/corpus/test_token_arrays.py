"""Words as arrays against the same words as strings: places, tallies, equality, and the classifier's hashes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from luopan.corpus import ngram_bounds, token_arrays
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.classifier import word_hashes
from luopan.corpus.document import Document
from luopan.corpus.filter_config import GopherRepetitionConfig
from luopan.corpus.repetition import RULES
from luopan.corpus.verdict import first
from luopan.corpus.word_memory import WordMemory, batch_hashes
from luopan.corpus.words import Reading

TINY = ["", *"'’ a\0_\U000e0100", "''", "a'", "'a", "__", "_'_", "我’们", "a’我’b", "1'\U000e0100"]
ALPHABET = [
    "the ",
    "of ",
    *"abcXYZ0129__''’’’  \n\t.,!-é\u0301我们・。ก็\u0e3f\u3000\u200b\0²½٣ि\u094d\u20dd𝔘𠀀😀\ud800\u2028",
]


def mixed(seed: int, count: int = 300) -> list[str]:
    source = random.Random(seed)
    texts = ["".join(source.choices(ALPHABET, k=source.randint(0, 30))) for _ in range(count)]
    anywhere = ["".join(chr(source.randrange(0x110000)) for _ in range(20)) for _ in range(count)]
    return [*TINY, *texts, *anywhere]


def batch_of(texts):
    return DocumentBatch.of([Document(f"d{n}", text, "s", {}) for n, text in enumerate(texts)])


@pytest.mark.parametrize("piece", [token_arrays.PIECE, 5])
def test_arrays_say_what_strings_say(monkeypatch, piece):
    monkeypatch.setattr(token_arrays, "PIECE", piece)
    monkeypatch.setattr(token_arrays, "CHUNK", 4 * piece)
    texts = mixed(1)
    tokens: dict[int, str] = {}
    for text, arrays in zip(texts, token_arrays.read_tokens(texts), strict=True):
        read, plain = Reading(text), Reading(text)
        read.arrays = arrays
        assert read.tally == plain.tally, text
        assert [read.token(at) for at in range(read.token_count)] == read.tokens == plain.tokens
        assert read.token_lengths.tolist() == plain.token_lengths.tolist()
        for value, token in zip(read.token_hashes.tolist(), plain.tokens, strict=True):
            assert tokens.setdefault(value, token) == token
    assert len(tokens) == len(set(tokens.values()))


def test_a_long_text_is_cut_between_tokens_only(monkeypatch):
    monkeypatch.setattr(token_arrays, "PIECE", 10)
    text = "don't cut" + "x" * 40 + " here or\nthere, " * 5 + "東京" * 30
    [found] = token_arrays.read_tokens([text])
    assert [text[start:end] for start, end in zip(found.starts, found.ends)] == Reading(text).tokens
    assert found.tally == Reading(text).tally


def test_the_memory_of_words_changes_no_hash():
    texts = ["The Quick’s 北京 fox!", "", "\0 the THE the", *(text for text in mixed(2) if "\ud800" not in text)]
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    plain = [found.tolist() for found in word_hashes([Reading(text) for text in texts])]
    for _ in range(2):
        assert [found.tolist() for found in batch_hashes(batch_of(texts))] == plain
    arrays, flat = token_arrays.read_tokens(texts), np.concatenate([np.array(one, np.uint64) for one in plain])
    memory = WordMemory()
    assert [memory.of(texts, arrays).tolist() for _ in range(2)] == [flat.tolist()] * 2


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("least", [1, 2, 9])
def test_no_rule_is_left_out_that_would_find_something(seed, least):
    source = random.Random(seed)
    config = GopherRepetitionConfig(min_top_ngram_count=least, max_top_ngram={1: 0.3, 2: 0.2, 3: None, 4: 0.1})
    words = [source.choice("abcdefgh") * source.randint(1, 12) for _ in range(60)]
    words.append("x" * source.choice([3, 300]))
    texts = []
    for _ in range(40):
        span = source.choices(words, k=source.randint(1, 9)) * source.randint(1, 9)
        texts.append(" ".join([*source.choices(words, k=source.randint(0, 90)), *span]))
    texts += ["", "a", texts[0][:5]]
    readings = batch_of(texts).read()
    rules = ngram_bounds.rules_for(readings, config)
    chosen = [first(own, reading, config) for own, reading in zip(rules, readings, strict=True)]
    assert chosen == [first(RULES, Reading(text), config) for text in texts]
    assert any(chosen) and not all(rule in own for own in rules for rule in RULES)
