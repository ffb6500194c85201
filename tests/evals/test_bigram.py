"""The byte bigram: figures worked by hand, probabilities that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luopan.errors import DataError
from luopan.evals import bigram
from luopan.evals.bigram import ByteBigram, bigram_bits_per_byte, pair_counts, uniform_bits


def test_hand_worked():
    # "abab": pairs ab, ba, ab. Order 0 counts what follows: b twice, a once, plus a half each.
    fitted = ByteBigram.fit(["abab"])
    a, b = ord("a"), ord("b")
    total = 3 + 128
    p0_a, p0_b = 1.5 / total, 2.5 / total
    assert (fitted.order0[a], fitted.order0[b]) == pytest.approx((p0_a, p0_b))
    # After a: b twice, one kind: (2 + 1 * p0_b) / (2 + 1). After b: a once, one kind.
    assert fitted.order1[a, b] == pytest.approx((2 + p0_b) / 3)
    assert fitted.order1[b, a] == pytest.approx((1 + p0_a) / 2)
    assert fitted.order1[a, ord("z")] == pytest.approx((0.5 / total) / 3)
    expected = -(math.log2((2 + p0_b) / 3) + math.log2((1 + p0_a) / 2)) / 2
    assert fitted.bits_per_byte(["aba"]) == pytest.approx(expected)
    assert bigram_bits_per_byte(["abab"], ["ab", "ba"], order=0) == pytest.approx(
        -(math.log2(p0_a) + math.log2(p0_b)) / 2
    )


def test_the_more_kinds_follow_the_more_is_left_for_others():
    # After a: b twice and c once, two kinds: (2 + 2 p0_b) / (3 + 2). Following bytes are b a b a c: b 2, a 2, c 1.
    fitted = ByteBigram.fit(["ababac"])
    p0_b, p0_z = 2.5 / (5 + 128), 0.5 / (5 + 128)
    assert fitted.order1[ord("a"), ord("b")] == pytest.approx((2 + 2 * p0_b) / 5)
    assert fitted.order1[ord("a"), ord("z")] == pytest.approx(2 * p0_z / 5)


def test_every_row_is_a_distribution_and_nothing_is_impossible():
    fitted = ByteBigram.fit(["some text é", "北京"])
    assert fitted.order0.sum() == pytest.approx(1)
    assert np.allclose(fitted.order1.sum(1), 1) and (fitted.order1 > 0).all()
    assert fitted.order1[ord("Q")] == pytest.approx(fitted.order0)  # never seen: order 0 alone
    assert math.isfinite(fitted.bits_per_byte(["\x00\x7f never seen 👍"]))


def test_no_pair_crosses_from_text_to_text_or_block_to_block(monkeypatch):
    texts = ["ab", "cd", "", "e", "fgh"]
    counts = pair_counts(texts)
    assert {(chr(x), chr(y)) for x, y in np.argwhere(counts)} == {("a", "b"), ("c", "d"), ("f", "g"), ("g", "h")}
    monkeypatch.setattr(bigram, "BLOCK", 1)
    assert (pair_counts(texts) == counts).all()


def test_what_is_predictable_costs_less():
    english = "the cat and the dog and the bird sat in the sun and sang. " * 20
    noise = np.random.default_rng(0).bytes(2000).decode("latin-1")
    order1, order0 = (bigram_bits_per_byte([english], [english[:200]], order=order) for order in (1, 0))
    assert order1 < order0 < uniform_bits() < bigram_bits_per_byte([english], [noise])


def test_nothing_to_count_or_measure_is_an_error():
    for train, texts in (([], ["ab"]), (["a"], ["ab"]), (["ab"], []), (["ab"], ["x", ""])):
        with pytest.raises(DataError, match="there is no text"):
            bigram_bits_per_byte(train, texts)
    with pytest.raises(ValueError, match="order is 2"):
        bigram_bits_per_byte(["ab"], ["ab"], order=2)
