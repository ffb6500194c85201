from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from luopan.errors import DataError
from luopan.tokens.order import DataOrder, PackedOrder, permutation

WEB = [7, 1, 30, 4, 4, 12, 2, 9]  # 69 tokens in 8 documents
BOOKS = [50, 3, 21]  # 74 tokens


def stream(order: DataOrder, name: str, rows: int) -> list[tuple[int, int]]:
    """The (document, offset) of each token of a source's rows, laid end to end without the token they share."""
    tokens: list[tuple[int, int]] = []
    n = found = 0
    while found < rows:
        plan = order.row(n)
        n += 1
        if plan.source != name:
            continue
        row = [(p.document, i) for p in plan.pieces for i in range(p.start, p.stop)]
        assert len(row) == order.sequence_length
        assert not tokens or tokens[-1] == row[0]
        tokens += row if not tokens else row[1:]
        found += 1
    return tokens


@pytest.mark.parametrize("length", [2, 5, 16, 200])
def test_each_token_is_a_target_once_an_epoch(length: int) -> None:
    order = DataOrder({"web": WEB}, None, length, seed=3)
    targets: Counter[tuple[int, int]] = Counter()
    for n in range(69):  # length - 1 epochs exactly, as each row has length - 1 fresh tokens
        for piece in order.row(n).pieces:
            targets.update((piece.document, i) for i in range(piece.start + 1, piece.stop))
    # All but the first token of each document.
    assert targets == {(d, i): length - 1 for d, n in enumerate(WEB) for i in range(1, n)}
    tokens = stream(order, "web", -(-3 * 69 // (length - 1)) + 1)
    for epoch in range(3):
        part = tokens[epoch * 69 : (epoch + 1) * 69]
        assert sorted(part) == sorted((d, i) for d, n in enumerate(WEB) for i in range(n))
        starts = [k for k, (_, i) in enumerate(part) if i == 0]
        assert all(part[a:b] == [(part[a][0], i) for i in range(b - a)] for a, b in pairwise([*starts, 69]))


def test_epochs_are_fresh_permutations() -> None:
    order = DataOrder({"web": [1] * 50}, None, 51, seed=0)
    tokens = [d for d, _ in stream(order, "web", 4)]
    epochs = [tokens[i * 50 : (i + 1) * 50] for i in range(4)]
    assert len({tuple(e) for e in epochs}) == 4
    assert all(sorted(e) == list(range(50)) for e in epochs)


def test_the_order_is_fixed_for_good() -> None:
    """These numbers must never change: a run that goes on with a newer version would read other data."""
    assert permutation(8, "documents", 0, "web", 0).tolist() == FIXED_PERMUTATION
    plan = DataOrder({"web": WEB, "books": BOOKS}, {"web": 3, "books": 1}, 16, seed=1).row(5)
    assert (plan.source, [(p.document, p.start, p.stop) for p in plan.pieces]) == FIXED_ROW


def test_seed_source_and_epoch_all_matter() -> None:
    same = [permutation(100, "documents", 1, "web", 0).tolist() for _ in range(2)]
    others = [permutation(100, "documents", *key).tolist() for key in ((2, "web", 0), (1, "books", 0), (1, "web", 1))]
    assert same[0] == same[1]
    assert len({tuple(p) for p in [same[0], *others]}) == 4


def test_permutations_are_uniform() -> None:
    counts = np.zeros((6, 6))
    for key in range(6000):
        counts[np.arange(6), permutation(6, key)] += 1
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000 * 5 / 6)


def test_a_row_does_not_depend_on_what_was_read_before() -> None:
    lengths = {"web": WEB, "books": BOOKS}
    order = DataOrder(lengths, {"web": 0.7, "books": 0.3}, 16, seed=5)
    forward = [order.row(n) for n in range(200)]
    assert [order.row(n) for n in reversed(range(200))] == forward[::-1]
    assert DataOrder(lengths, {"web": 0.7, "books": 0.3}, 16, seed=5).row(137) == forward[137]
    assert [DataOrder(lengths, {"web": 7, "books": 3}, 16, seed=5).row(n) for n in range(200)] == forward
    assert [DataOrder(lengths, {"web": 0.7, "books": 0.3}, 16, seed=6).row(n) for n in range(200)] != forward


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1, 1, 1], [0.9, 0.05, 0.03, 0.02], [1e-3, 1], [5]])
def test_every_source_keeps_its_share_all_the_time(weights: list[float]) -> None:
    names = [f"s{i}" for i in range(len(weights))]
    order = DataOrder({name: [100] for name in names}, dict(zip(names, weights, strict=True)), 11, seed=0)
    seen: Counter[str] = Counter()
    for n in range(1500):
        name, index = order.locate(n)
        assert index == seen[name]
        seen[name] += 1
        for source, weight in zip(names, weights, strict=True):
            assert abs(seen[source] - (n + 1) * weight / sum(weights)) <= 1.5
        if n % 100 == 0:
            assert {k: v.rows for k, v in order.consumed(n + 1).items()} == {k: seen[k] for k in names}


def test_shares_hold_far_out() -> None:
    order = DataOrder({"a": [9], "b": [9], "c": [9]}, {"a": 0.5, "b": 0.3, "c": 0.2}, 3, seed=0)
    n = 10**12
    before, after = order.consumed(n), order.consumed(n + 1000)
    assert sum(c.rows for c in before.values()) == n
    assert [after[k].rows - before[k].rows for k in "abc"] == pytest.approx([500, 300, 200], abs=2)
    order.row(n)


def test_epochs_consumed() -> None:
    order = DataOrder({"web": WEB, "books": BOOKS}, {"web": 1, "books": 1}, 24, seed=0)
    consumed = order.consumed(12)
    assert consumed["web"].rows == consumed["books"].rows == 6
    assert consumed["web"].tokens == 6 * 23
    assert consumed["web"].epochs == pytest.approx(6 * 23 / 69)
    assert order.rows_per_epoch()["web"] == 3
    natural = DataOrder({"web": WEB, "books": BOOKS}, None, 24, seed=0).consumed(10_000)
    assert natural["web"].epochs == pytest.approx(natural["books"].epochs, rel=1e-3)


@pytest.mark.parametrize(("lengths", "weights", "length", "match"), [
    ({}, None, 8, "no token source"),
    ({"web": []}, None, 8, "'web' has no tokens"),
    ({"web": [3, 0]}, None, 8, "'web' has no tokens"),
    ({"web": WEB}, {"web": 0}, 8, "weight of 'web' is 0"),
    ({"web": WEB}, {"web": float("nan")}, 8, "weight of 'web' is nan"),
    ({"web": WEB}, {"wbe": 1}, 8, "differ in wbe, web"),
    ({"web": WEB, "books": BOOKS}, {"web": 1}, 8, "differ in books"),
    ({"web": WEB}, None, 1, "nothing to predict"),
])  # fmt: skip
def test_mixtures_that_make_no_sense_are_refused(lengths: dict, weights: dict | None, length: int, match: str) -> None:
    with pytest.raises(DataError, match=match):
        DataOrder(lengths, weights, length, seed=0)


def test_packed_rows_come_once_an_epoch() -> None:
    order = PackedOrder(7, seed=1)
    rows = [order.row(n) for n in range(21)]
    epochs = [rows[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(e) == list(range(7)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert PackedOrder(7, seed=1).row(16) == rows[16]
    assert [PackedOrder(7, seed=2).row(n) for n in range(21)] != rows
    assert order.epochs(14) == 2
    with pytest.raises(DataError, match="no rows"):
        PackedOrder(0, seed=1)


FIXED_PERMUTATION = [3, 5, 0, 7, 1, 6, 4, 2]
FIXED_ROW = ("web", [(7, 0, 9), (2, 0, 7)])
