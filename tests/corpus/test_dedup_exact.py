"""Exact twins over many splits, against a dictionary of texts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from dedup_files import Backwards, spread, together

from luopan.corpus.dedup import exact, shuffle
from luopan.corpus.executor import InProcess


def slow_twins(texts: list[str]) -> list[int]:
    seen: dict[str, int] = {}
    found = []
    for number, text in enumerate(texts):
        first = seen.setdefault(" ".join(text.casefold().split()), number)
        found.append(first if first != number else -1)
    return found


def many_texts(count: int = 400) -> list[str]:
    source = random.Random(3)
    words = ["Red fox", "red  FOX", "red\nfox ", "red fox!", "", " ", "Straße", "STRASSE", "北京", "3-4", "3+4"]
    return [source.choice(words) + str(source.choice(["", 1, 2, 3])) for _ in range(count)]


def test_case_and_white_space_do_not_count_but_punctuation_does():
    same = exact.digests(["The Red\n fox", "the red fox", "the red fox.", "3-4", "3+4", "\ud800"])
    assert same.shape == (6, 2) and same.dtype == np.uint64
    assert (same[0] == same[1]).all() and len({tuple(row) for row in same.tolist()}) == 5
    assert exact.digests([]).shape == (0, 2)
    assert exact.fingerprint_text("a  B") == exact.fingerprint_text("A b")


@pytest.mark.parametrize("partitions", [1, 2, 7, 64])
@pytest.mark.parametrize("cuts", [(), (0, 100, 100, 399), (13, 200, 400)])
def test_the_first_stays_whatever_the_splits_and_partitions(tmp_path, partitions, cuts):
    texts = many_texts()
    files = spread(tmp_path, "digests", exact.digests(texts), cuts)
    twins = exact.exact_twins(files, tmp_path / "out", Backwards(), partitions)
    assert len(twins) == len(files) and together(twins).tolist() == slow_twins(texts)
    assert sorted((tmp_path / "out").iterdir()) == sorted(twins)  # nothing is left behind


def test_the_digest_counts_in_both_its_halves(tmp_path):
    digests = np.array([[5, 1], [5, 2], [5, 1], [6, 1], [5, 2]], np.uint64)
    files = spread(tmp_path, "digests", digests, (2,))
    assert together(exact.exact_twins(files, tmp_path, InProcess(), 1)).tolist() == [-1, -1, 0, -1, 1]


def test_memory_bounds_the_segments(tmp_path, monkeypatch):
    texts = many_texts()
    files = spread(tmp_path, "digests", exact.digests(texts), (150,))
    monkeypatch.setattr(shuffle, "SEGMENT_ROWS", 10)
    assert shuffle.partitions_for(shuffle.splits_of(files)) == 40
    assert together(exact.exact_twins(files, tmp_path, InProcess())).tolist() == slow_twins(texts)


def test_ranges_cover_all_keys_in_order():
    keys = np.array([0, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1], np.uint64)
    assert shuffle.range_of(keys, 4).tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert shuffle.range_of(keys, 3).max() == 2


def test_other_processes_can_do_it(tmp_path):
    texts = many_texts(60)
    files = spread(tmp_path, "digests", exact.digests(texts), (20, 40))
    assert together(exact.exact_twins(files, tmp_path / "out", Backwards(2), 2)).tolist() == slow_twins(texts)


def test_no_documents_at_all(tmp_path):
    files = spread(tmp_path, "digests", exact.digests([]), ())
    assert together(exact.exact_twins(files, tmp_path, InProcess(), 3)).tolist() == []
    assert exact.exact_twins([], tmp_path, InProcess(), 1) == []
