from __future__ import annotations

import random
import time
from bisect import bisect_left, insort

import numpy as np
import pytest

from luopan.errors import DataError
from luopan.tokens.example import Example
from luopan.tokens.packing import best_fit_decreasing, pack, padding_share


def test_by_hand() -> None:
    # 6 and 5 open a bin each; 4 goes beside 6 (exact), 3 beside 5, 2 beside both (exact), 1 opens a third.
    assert best_fit_decreasing([1, 2, 3, 4, 5, 6], 10) == [[5, 3], [4, 2, 1], [0]]
    assert best_fit_decreasing([], 4) == []
    assert best_fit_decreasing([4, 4], 4) == [[0], [1]]
    # Best fit, not first fit: 3 goes to the bin with 3 left, though an older one has 4 left.
    assert best_fit_decreasing([6, 7, 3], 10) == [[1, 2], [0]]


@pytest.mark.parametrize("seed", range(5))
def test_every_document_once_and_no_row_too_long(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, rng.choice([20, 256])) for _ in range(400)]
    bins = best_fit_decreasing(lengths, 256)
    assert sorted(i for row in bins for i in row) == list(range(400))
    assert all(0 < sum(lengths[i] for i in row) <= 256 for row in bins)
    assert bins == best_fit_decreasing(list(lengths), 256)
    fewest = -(-sum(lengths) // 256)
    assert len(bins) <= 11 / 9 * fewest + 1


def best_fit_slowly(lengths: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        room = [capacity - sum(lengths[j] for j in row) for row in bins]
        fits = [(free, b) for b, free in enumerate(room) if free >= lengths[i]]
        if fits:
            bins[min(fits)[1]].append(i)
        else:
            bins.append([i])
    return bins


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 40) for _ in range(120)]
    assert best_fit_decreasing(lengths, 64) == best_fit_slowly(lengths, 64)


def best_fit_one_by_one(lengths: list[int], capacity: int) -> list[list[int]]:
    """The same definition fast enough for thousands: each document looks for its bin in a list sorted by room."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        spot = bisect_left(free, (lengths[i], -1))
        if spot == len(free):
            bins.append([])
            free.append((capacity, len(bins) - 1))
        room, number = free.pop(spot)
        bins[number].append(i)
        if room > lengths[i]:
            insort(free, (room - lengths[i], number))
    return bins


@pytest.mark.parametrize("seed", range(300))
def test_equals_packing_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    capacity = rng.choice([1, 2, 5, 17, 64, 257, 4096])
    longest = rng.randint(1, capacity)
    lengths = [rng.randint(1, longest) for _ in range(rng.randint(0, 400))]
    assert best_fit_decreasing(lengths, capacity) == best_fit_one_by_one(lengths, capacity)


def test_a_million_documents_in_two_seconds() -> None:
    drawn = np.random.default_rng(0).lognormal(6.0, 1.0, 1_000_000).astype(np.int64)
    lengths = np.clip(drawn, 1, 2048)
    start = time.process_time()
    bins = best_fit_decreasing(lengths, 2048)
    assert time.process_time() - start < 2
    assert lengths.sum() / (len(bins) * 2048) > 0.995
    assert best_fit_decreasing(lengths[:30_000], 2048) == best_fit_one_by_one(lengths[:30_000].tolist(), 2048)


def test_pack() -> None:
    examples = [Example([1] * n, [1] * n) for n in (3, 5, 2)]
    assert [[len(e) for e in row] for row in pack(examples, 8)] == [[5, 3], [2]]
    assert [[len(e) for e in row] for row in pack(examples, 8, packing=False)] == [[3], [5], [2]]
    assert padding_share(pack(examples, 8), 8) == pytest.approx(6 / 16)
    assert pack([], 8) == pack([], 8, packing=False) == []
    for packing in (True, False):
        with pytest.raises(DataError, match="5 tokens does not fit a row of 4") as caught:
            pack(examples, 4, packing=packing)
        assert caught.value.where == "document 1"
