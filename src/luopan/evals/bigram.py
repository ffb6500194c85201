"""The baseline a language model has to beat: byte frequencies (order 0) and byte pairs (order 1), in bits per byte.

Order 1 backs off to order 0 by Witten and Bell's rule (1991, method C), order 0 to all bytes alike by adding one half
(Krichevsky and Trofimov 1981), so nothing has to be tuned and every text has a finite cost. The first byte of a text is
left out, as the first token is in `bits`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from luopan.errors import DataError

BYTES = 256
BORDER = 256  # stands between texts, so that no pair crosses from one to the next
BLOCK = 4 << 20


class ByteBigram:
    """Counts of byte pairs. `order0` [256] and `order1` [256, 256] (previous byte, byte) are probabilities."""

    def __init__(self, counts: np.ndarray) -> None:
        """counts [256, 256]: how often each byte followed each."""
        single = counts.sum(0) + 0.5  # [256]
        self.order0 = single / single.sum()
        seen = counts.sum(1, keepdims=True)  # [256, 1]
        kinds = (counts > 0).sum(1, keepdims=True)
        # A byte that was never seen first says nothing of what follows: order 0 alone.
        kinds = np.where(seen == 0, 1, kinds)
        self.order1 = (counts + kinds * self.order0) / (seen + kinds)

    @classmethod
    def fit(cls, texts: Iterable[str]) -> ByteBigram:
        """Count the pairs of `texts`. DataError where there is none."""
        counts = pair_counts(texts)
        if not counts.any():
            raise DataError("there is no text to count byte pairs in")
        return cls(counts)

    def bits_per_byte(self, texts: Iterable[str], *, order: int = 1) -> float:
        """Mean cost of the bytes of `texts` but the first of each. DataError where there is none."""
        counts = pair_counts(texts)
        total = counts.sum()
        if not total:
            raise DataError("there is no text to measure on")
        costs = -np.log2(self.order1 if order == 1 else np.broadcast_to(self.order0, counts.shape))
        return float((counts * costs).sum() / total)


def bigram_bits_per_byte(train: Iterable[str], texts: Iterable[str], *, order: int = 1) -> float:
    """Bits per byte of `texts` under byte pairs (or, order 0, bytes) counted in `train`."""
    if order not in (0, 1):
        raise ValueError(f"order is {order}; there are 0 and 1")
    return ByteBigram.fit(train).bits_per_byte(texts, order=order)


def pair_counts(texts: Iterable[str]) -> np.ndarray:
    """[256, 256] int64: how often each byte follows each inside a text."""
    counts = np.zeros((BYTES + 1, BYTES + 1), np.int64)
    for block in blocks(texts):
        pairs = block[:-1].astype(np.int64) * (BYTES + 1) + block[1:]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    return counts[:BYTES, :BYTES]


def blocks(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Bytes of many texts at once, as uint16 with a border before each and at the end."""
    held: list[np.ndarray] = []
    size = 0
    for text in texts:
        held.append(np.array([BORDER], np.uint16))
        held.append(np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16))
        size += len(held[-1])
        if size >= BLOCK:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def uniform_bits() -> float:
    """What a model costs that knows nothing: 8 bits per byte."""
    return math.log2(BYTES)
