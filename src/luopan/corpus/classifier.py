"""A linear text classifier over hashed word n-grams: what the quality and toxicity steps score documents with.

In the manner of fastText's supervised mode with one output (Joulin et al. 2016, arXiv:1607.01759): each word and each
run of 2 (or up to `ngrams`) neighbouring words falls into one of `buckets` weights by its hash; the probability is the
logistic function of the mean weight plus a bias. Words are lower-cased, typographic apostrophes are plain ones, and
punctuation marks are words too. `split_words` gives one token per character of scripts written without spaces, so there
the same n-grams are n-grams of characters.

Hashes come from blake2b, not from Python's `hash`, so that a score is the same in every process. Scores are rounded to
four places, so that a last bit of a sum that another processor adds up differently does not show.

Limits: it sees words and word pairs, no order beyond that and no meaning; it knows what its training texts hold.
A text with none of their words gets the score of the bias alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from luopan.corpus.words import Reading
from luopan.errors import DataError

FORMAT = "luopan-linear-1"
PLACES = 4  # of a score
KNOWN_WORDS = 1 << 18  # hashes of words that a process remembers, some 40 MB
LONGEST_KNOWN = 64  # characters; longer tokens are hashed each time they occur
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well spread


class WordHashes(dict[str, int]):
    """Word to 64-bit hash of its lower-cased form, computed when first asked for; forgotten when there are too many."""

    def __missing__(self, word: str) -> int:
        plain = word.lower().replace("’", "'").encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(plain, digest_size=8).digest()
        value = int.from_bytes(digest, "little")
        if len(word) <= LONGEST_KNOWN:
            if len(self) >= KNOWN_WORDS:
                self.clear()
            self[word] = value
        return value


@lru_cache(maxsize=1)
def known_words() -> WordHashes:
    """This process's memory of hashes."""
    return WordHashes()


def word_hashes(readings: Sequence[Reading]) -> list[np.ndarray]:
    """Per text the hashes of its tokens, [tokens] uint64; kept beside the reading, where two steps want them."""
    missing = [reading for reading in readings if "_word_hashes" not in vars(reading)]
    sizes = [len(reading.tokens) for reading in missing]
    tokens = chain.from_iterable(reading.tokens for reading in missing)
    flat = np.fromiter(map(known_words().__getitem__, tokens), np.uint64, sum(sizes))
    borders = np.cumsum([0, *sizes])
    for reading, start, end in zip(missing, borders[:-1], borders[1:]):
        vars(reading)["_word_hashes"] = flat[start:end]
    return [vars(reading)["_word_hashes"] for reading in readings]


def buckets_of(hashes: np.ndarray, order: int, buckets: int) -> np.ndarray:
    """[T] uint64 word hashes to [T - order + 1], the bucket of each n-gram; `buckets` is a power of 2."""
    mixed = hashes[: len(hashes) - order + 1]
    for later in range(1, order):
        mixed = mixed * MULTIPLIER + hashes[later : len(hashes) - order + 1 + later]
    return ((mixed * MULTIPLIER) >> np.uint64(64 - (buckets.bit_length() - 1))).astype(np.int64)


@dataclass(frozen=True)
class LinearModel:
    """`weights` [buckets] float32 and `bias` are calibrated: the logistic function of their sum is a probability.

    `facts` is what training wrote down: figures on held-out examples, seed, inputs, the strongest n-grams.
    """

    weights: np.ndarray
    bias: float
    ngrams: int
    facts: dict[str, Any]

    def sums(self, hashes: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Texts one after the other, `hashes` [T], text n ending before `ends[n]`: (sums [T], counts [T]) of the
        weights of the n-grams that start at each word and stay inside their text."""
        total = np.zeros(len(hashes), np.float32)
        count = np.zeros(len(hashes), np.int32)
        for order in range(1, self.ngrams + 1):
            if len(hashes) < order:
                break
            found = self.weights[buckets_of(hashes, order, len(self.weights))]
            inside = np.ones(len(found), bool)
            for back in range(1, order):
                crossing = ends - back
                inside[crossing[(crossing >= 0) & (crossing < len(found))]] = False
            total[: len(found)] += np.where(inside, found, np.float32(0))
            count[: len(found)] += inside
        return total, count

    def scores(self, hashes: Sequence[np.ndarray]) -> np.ndarray:
        """[N] float64: the probability of each text, given the hashes of its words; rounded."""
        sizes = np.array([len(one) for one in hashes], np.int64)
        ends = np.cumsum(sizes)
        total, count = self.sums(np.concatenate([*hashes, np.zeros(0, np.uint64)]), ends)
        return self.probabilities(added(total, ends - sizes, ends), added(count, ends - sizes, ends))

    def probabilities(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """[N] rounded probabilities from sums of weights and counts of n-grams."""
        logits = self.bias + sums / np.maximum(counts, 1)
        return np.round(1 / (1 + np.exp(-np.clip(logits, -30, 30))), PLACES)


def added(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[N] float64 sums of `values[start:end]`, each added up by itself: no text's sum depends on its neighbours."""
    result = np.zeros(len(starts))
    filled = ends > starts
    if filled.any():
        # The filled ranges are neighbours, so each ends where the next begins.
        result[filled] = np.add.reduceat(values.astype(np.float64), starts[filled])
    return result


def save_model(model: LinearModel, path: Path) -> None:
    """Writes `path` (safetensors: weights in half precision and, in its header, all that scoring needs) and beside it
    the same facts as JSON, for people."""
    from safetensors.numpy import save

    from luopan.artifacts.files import atomic_write_bytes, atomic_write_json

    header = {"bias": model.bias, "ngrams": model.ngrams, "facts": model.facts}
    # One entry alone: safetensors writes several in an order that differs from run to run.
    metadata = {FORMAT: json.dumps(header, ensure_ascii=False, sort_keys=True)}
    atomic_write_bytes(path, save({"weights": model.weights.astype(np.float16)}, metadata=metadata))
    atomic_write_json(facts_path(path), model.facts)


def facts_path(path: Path) -> Path:
    """Where the facts of a model lie as JSON."""
    return path.with_suffix(".json")


@lru_cache(maxsize=8)
def load_model(path: str) -> LinearModel:
    """The model in a file that `save_model` wrote. DataError if there is none, or it is damaged or of another kind."""
    from safetensors import SafetensorError, safe_open

    hint = "Make one: luopan corpus train-quality --good FILE --bad FILE --out FILE"
    if Path(path).suffix == ".json":
        beside = Path(path).with_suffix(".safetensors")
        what = f"that is the figures; the model is {beside.name}" if beside.is_file() else "not a classifier file"
        raise DataError(what, where=path, hint=hint)
    if not Path(path).is_file():
        raise DataError("no such classifier file", where=path, hint=hint)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise DataError(f"not a classifier in the format {FORMAT}", where=path, hint=hint)
            weights = file.get_tensor("weights").astype(np.float32)
            header = json.loads(metadata[FORMAT])
            bias, ngrams, facts = float(header["bias"]), int(header["ngrams"]), header["facts"]
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"damaged classifier file: {error}", where=path, hint=hint) from error
    size = len(weights)
    if weights.ndim != 1 or size & (size - 1) or not (np.isfinite(weights).all() and math.isfinite(bias)):
        raise DataError("damaged classifier file: its weights are not what train-quality writes", where=path, hint=hint)
    return LinearModel(weights, bias, ngrams, facts)
