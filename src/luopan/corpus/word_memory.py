"""Hashes of words for lists and classifiers, without a Python string for each word.

`classifier.word_hashes` takes a word's hash from its lower-case form with blake2b, one by one. Here the words of a
batch are numbers already (`token_arrays.py`), and a table remembers which of the classifier's hashes belongs to which:
only words that it does not hold are cut out of their text and hashed. What it holds changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.classifier import known_words, word_hashes
from luopan.corpus.words import TokenArrays

BITS = 18  # of the number of places: 4 MB


def batch_hashes(batch: DocumentBatch) -> list[np.ndarray]:
    """As `classifier.word_hashes` of the batch's texts."""
    readings = batch.read()
    unknown = [(r, r.arrays) for r in readings if r.arrays is not None and "_word_hashes" not in vars(r)]
    if unknown:
        flat = word_memory().of([reading.text for reading, _ in unknown], [arrays for _, arrays in unknown])
        end = 0
        for reading, arrays in unknown:
            start, end = end, end + len(arrays.hashes)
            vars(reading)["_word_hashes"] = flat[start:end]
    return word_hashes(readings)


class WordMemory:
    """A token has one place, by the leading bits of its hash; of several tokens the one seen last has it."""

    def __init__(self) -> None:
        self.tokens = np.zeros(1 << BITS, np.uint64)
        self.tokens[0] = ~np.uint64(0)  # as all others, the hash of a token whose place is another
        self.words = np.zeros(1 << BITS, np.uint64)

    def of(self, texts: Sequence[str], arrays: Sequence[TokenArrays]) -> np.ndarray:
        """[T] uint64: the classifier's hashes of the tokens of some texts, one text after the other."""
        hashes = np.concatenate([tokens.hashes for tokens in arrays])
        places = (hashes >> np.uint64(64 - BITS)).astype(np.int64)
        found = self.words.take(places)
        missing = np.flatnonzero(self.tokens.take(places) != hashes)
        if not len(missing):
            return found
        ends = np.cumsum([len(tokens.hashes) for tokens in arrays])
        owners = np.searchsorted(ends, missing, side="right").tolist()
        first = np.concatenate([tokens.starts for tokens in arrays])[missing].tolist()
        last = np.concatenate([tokens.ends for tokens in arrays])[missing].tolist()
        known = known_words()
        words = [known[texts[n][start:end]] for n, start, end in zip(owners, first, last)]
        found[missing] = np.array(words, np.uint64)
        self.tokens[places[missing]] = hashes[missing]
        self.words[places[missing]] = found[missing]
        return found


@lru_cache(maxsize=1)
def word_memory() -> WordMemory:
    """This process's memory."""
    return WordMemory()
