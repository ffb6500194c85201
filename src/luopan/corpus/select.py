"""Which of the kept documents stay under a size cap, and which are held out: by hash of the id alone.

So the choice does not depend on order, seed or machine; a larger cap keeps what a smaller one kept; and more data moves
no document from the held-out part to the training part except where the least number of documents decides.
"""

from __future__ import annotations

import hashlib

import numpy as np

from luopan.corpus.config import HeldOutConfig


def key(purpose: str, id: str) -> int:
    """64 bits that order documents at random for one purpose, independently of those for another."""
    digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "little")


def under_cap(keys: np.ndarray, sizes: np.ndarray, max_bytes: int | None) -> np.ndarray:
    """[N] bool: the documents with the smallest keys whose sizes add up to at most `max_bytes`."""
    if max_bytes is None:
        return np.ones(len(keys), bool)
    order = np.argsort(keys, kind="stable")
    order = order[sizes[order] <= max_bytes]  # one document that is too large must not keep all others out
    chosen = np.zeros(len(keys), bool)
    chosen[order] = np.cumsum(sizes[order]) <= max_bytes
    return chosen


def held_out(keys: np.ndarray, sizes: np.ndarray, config: HeldOutConfig) -> np.ndarray:
    """[N] bool: the share `fraction` with the smallest keys, at least `min_documents`.

    Never more than half of the documents, and never more than `max_bytes` but for the first document.
    """
    count = int((keys < np.uint64(config.fraction * 2.0**64)).sum())  # the fraction is at most a half
    count = min(max(count, config.min_documents), len(keys) // 2)
    chosen = np.zeros(len(keys), bool)
    order = np.argsort(keys, kind="stable")[:count]
    if config.max_bytes is not None and count:
        order = order[: max(1, int((np.cumsum(sizes[order]) <= config.max_bytes).sum()))]
    chosen[order] = True
    return chosen
