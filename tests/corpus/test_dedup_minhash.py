"""MinHash: signatures against a slow definition, recall on planted near duplicates against theory, components."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from dedup_files import Backwards, spread, together
from hypothesis import given, settings
from hypothesis import strategies as st

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.dedup import minhash, shuffle
from luopan.corpus.dedup.cluster import join, near_twins
from luopan.corpus.dedup.hashed import STEP, hashed_words, mix
from luopan.corpus.dedup.minhash import functions, signatures
from luopan.corpus.dedup_config import MinHashConfig
from luopan.corpus.document import Document
from luopan.corpus.executor import InProcess

CONFIG = MinHashConfig()
MASK = (1 << 64) - 1


def batch_of(texts: list[str]) -> DocumentBatch:
    return DocumentBatch.of([Document(str(n), text, "s") for n, text in enumerate(texts)])


def scramble(value: int) -> int:
    return int(mix(np.array([value & MASK], np.uint64))[0])


def slow_signature(text: str, config: MinHashConfig) -> list[int]:
    """By the definition, with Python's integers."""
    words = hashed_words([text]).hashes.tolist()
    if not words:
        return [0] * config.buckets
    n = min(config.ngram, len(words))
    shingles = []
    for at in range(len(words) - n + 1):
        rolled = 0
        for word in words[at : at + n]:
            rolled = rolled * int(STEP) + word
        shingles.append(scramble(rolled))
    multipliers, offsets = (column.tolist() for column in functions(config))
    smallest = [min((a * x + b) & MASK for x in shingles) for a, b in zip(multipliers, offsets)]
    keys = []
    for bucket in range(config.buckets):
        key = 0
        for value in smallest[bucket * config.hashes_per_bucket : (bucket + 1) * config.hashes_per_bucket]:
            key = scramble((key + value) * int(STEP))
        keys.append(key)
    return keys


@pytest.mark.parametrize("size", [3, 1 << 13])
def test_signatures_are_those_of_the_definition(monkeypatch, size):
    monkeypatch.setattr(minhash, "SHINGLES", size)
    source = random.Random(0)
    texts = ["", "one", "One!", "a b c d", "a b c d e", "...", "我们在北京的大街上走"]
    texts += [" ".join(source.choices("abcdefgh", k=source.randrange(40))) for _ in range(20)]
    config = MinHashConfig(buckets=3, hashes_per_bucket=2, ngram=5, seed=7)
    found = signatures(batch_of(texts), config)
    assert found.dtype == np.uint64 and found.tolist() == [slow_signature(text, config) for text in texts]


def test_short_documents_are_near_to_the_same_words_only():
    found = signatures(batch_of(["a b c", "A, b: c.", "a b c d", "b c", "", "?!", "a b c d e"]), CONFIG)
    assert (found[0] == found[1]).all() and not (found[0] == found[2]).any() and not (found[0] == found[3]).any()
    assert not found[4].any() and not found[5].any() and found[6].all()


def test_seed_and_folding_matter():
    texts = ["we paid 12 pounds and 50 pence on the 3rd of May", "we paid 9 pounds and 75 pence on the 3rd of May"]
    plain, other = signatures(batch_of(texts), CONFIG), signatures(batch_of(texts), MinHashConfig(seed=2))
    assert not (plain == other).any() and not (plain[0] == plain[1]).all()
    folded = signatures(batch_of(texts), MinHashConfig(fold_numbers=True))
    assert (folded[0] == folded[1]).all()


def test_multipliers_are_odd_and_all_differ():
    multipliers, offsets = functions(CONFIG)
    assert len(multipliers) == 112 and (multipliers & np.uint64(1)).all() and len(np.unique(multipliers)) == 112
    assert len(np.unique(offsets)) == 112


def planted(similarity: float, pairs: int, source: random.Random) -> tuple[list[str], float]:
    """Neighbouring documents of made-up words whose sets of 5-grams are similar by about so much; how much it is."""
    shared = 120
    extra = round(shared * (1 - similarity) / (2 * similarity))
    texts = []
    for _ in range(pairs):
        common = [f"w{source.getrandbits(48):x}" for _ in range(shared + 4)]
        for _ in range(2):
            texts.append(" ".join(common + [f"w{source.getrandbits(48):x}" for _ in range(extra)]))
    return texts, shared / (shared + 2 * extra)


@pytest.mark.parametrize("wanted", [0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
@pytest.mark.parametrize("bands", [(14, 8), (9, 13)])
def test_planted_near_duplicates_are_found_as_often_as_theory_says(wanted, bands):
    pairs = 400
    buckets, hashes = bands
    texts, similarity = planted(wanted, pairs, random.Random(wanted))
    found = signatures(batch_of(texts), MinHashConfig(buckets=buckets, hashes_per_bucket=hashes))
    met = int((found[::2] == found[1::2]).any(axis=1).sum())
    theory = 1 - (1 - similarity**hashes) ** buckets
    assert abs(met - pairs * theory) <= 4 * math.sqrt(pairs * theory * (1 - theory)) + 1
    strangers = (found[:-2:2] == found[2::2]).any()  # of different pairs: nothing in common
    assert not strangers


def test_values_agree_as_often_as_the_sets_do():
    texts, similarity = planted(0.8, 200, random.Random(1))
    found = signatures(batch_of(texts), MinHashConfig(buckets=112, hashes_per_bucket=1))
    share = (found[::2] == found[1::2]).mean()
    assert abs(share - similarity) < 4 * math.sqrt(0.16 / (200 * 112)) * 2


def slow_near(keys: np.ndarray, alive: np.ndarray) -> list[int]:
    """Components by flooding."""
    links: dict[tuple[int, int], list[int]] = {}
    for row in np.flatnonzero(alive & keys.all(axis=1)).tolist():
        for bucket, key in enumerate(keys[row].tolist()):
            links.setdefault((bucket, key), []).append(row)
    neighbours: dict[int, set[int]] = {row: set() for row in range(len(keys))}
    for rows in links.values():
        for row in rows:
            neighbours[row] |= set(rows) - {row}
    found, seen = [-1] * len(keys), set()
    for row in range(len(keys)):
        if row in seen:
            continue
        stack = [row]
        seen.add(row)
        while stack:
            for other in neighbours[stack.pop()] - seen:
                seen.add(other)
                found[other] = row
                stack.append(other)
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_components_are_those_of_flooding(tmp_path_factory, data):
    rows, buckets = data.draw(st.integers(0, 25)), data.draw(st.integers(1, 3))
    value = st.integers(0, 8).map(lambda n: (n * 0x9E3779B97F4A7C15) & MASK)
    keys = np.array(data.draw(st.lists(value, min_size=rows * buckets, max_size=rows * buckets)), np.uint64)
    keys = keys.reshape(rows, buckets)
    alive = np.array(data.draw(st.lists(st.sampled_from([True, True, False]), min_size=rows, max_size=rows)), bool)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    folder = tmp_path_factory.mktemp("near")
    files, marks = spread(folder, "keys", keys, cuts), spread(folder, "alive", alive, cuts)
    config = MinHashConfig(buckets=buckets)
    found = near_twins(files, marks, folder, Backwards(), config, data.draw(st.integers(1, 5)))
    assert together(found).tolist() == slow_near(keys, alive)
    assert len(list(folder.iterdir())) == 3 * len(files)  # nothing is left behind


def test_the_answer_hangs_on_neither_splits_nor_memory_nor_processes(tmp_path, monkeypatch):
    source = random.Random(5)
    texts, _ = planted(0.85, 40, source)
    source.shuffle(texts)
    keys, alive = signatures(batch_of(texts), CONFIG), np.ones(len(texts), bool)
    alive[::9] = False
    answers = []
    for name, cuts, executor in (("one", (), InProcess()), ("many", (3, 30, 70), Backwards(2))):
        folder = tmp_path / name
        files, marks = spread(folder, "keys", keys, cuts), spread(folder, "alive", alive, cuts)
        answers.append(together(near_twins(files, marks, folder, executor, CONFIG)).tolist())
        monkeypatch.setattr(shuffle, "SEGMENT_ROWS", 11)
    assert answers[0] == answers[1] and sum(twin >= 0 for twin in answers[0]) > 20


def test_long_chains_come_together_in_few_rounds():
    roots = np.arange(100_000)
    order = np.random.default_rng(0).permutation(len(roots))
    join(roots, order[1:], order[:-1])
    assert not roots.any()
