"""Trains the classifier of `classifier.py` from good and bad examples, and measures it on examples held out.

Logistic regression by AdaGrad over mini-batches, both classes weighing the same however many examples each has. The
examples are parted by a hash of their text and the seed: 70% are trained on, 10% set the calibration (Platt 1999: one
scale and one bias), 20% are measured on. So the order of the files changes nothing, and a text that occurs twice cannot
stand on both sides. Texts that are among the good and the bad are left out of both.

Limits: a classifier learns whatever tells its examples apart, also what was not meant (a site's footer, a spelling, a
language). The figures speak of texts like the examples. Look at the strongest n-grams before trusting them.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luopan.corpus.classifier import LinearModel, buckets_of, known_words, word_hashes
from luopan.corpus.classifier_measures import measured
from luopan.corpus.document import Rejected
from luopan.corpus.source_config import FileSource
from luopan.corpus.words import Reading
from luopan.errors import DataError

LEAST_EXAMPLES = 40  # per side, so that each part has some
SHARES = {"held_out": 0.2, "calibration": 0.1}  # the rest is trained on
BATCH = 128
EXPLAINED_EXAMPLES = 2000  # per side, in which the strongest n-grams are looked up
SHOWN = 30  # strongest n-grams per side
WORD_BYTES = 12  # more than a word takes on average: texts are cut before they are split


@dataclass(frozen=True)
class TrainingSettings:
    """`buckets` is a power of 2; texts are cut to `max_words`; n-grams in fewer than `min_examples` get no weight, nor
    do those that consist of `ignored` words alone.
    """

    seed: int = 0
    ngrams: int = 2
    buckets: int = 1 << 20
    max_words: int = 2000
    max_examples: int = 50_000  # per side, chosen by hash
    min_examples: int = 2
    ignored: tuple[str, ...] = ()
    epochs: int = 12
    learning_rate: float = 2.0
    l2: float = 1e-7


@dataclass
class Notes:
    """Why rows of the examples' files could not be used, and how many; the first place of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, rejected: Rejected) -> None:
        self.counts[rejected.rule] += 1
        self.first.setdefault(rejected.rule, rejected.reason())

    def as_dict(self) -> dict[str, int]:
        """Reason with its first place, to number of rows."""
        return {self.first[rule]: count for rule, count in sorted(self.counts.items())}


def read_examples(paths: Iterable[Path], text_column: str, notes: Notes) -> Iterator[str]:
    """The texts of files, folders or globs, of any kind that sources are read from."""
    from luopan.corpus.read import read_files

    for path in paths:
        for item in read_files(FileSource(path=str(path), text_column=text_column)):
            if isinstance(item, Rejected):
                notes.add(item)
            else:
                yield item.text


@dataclass(frozen=True)
class Examples:
    """Texts as word hashes, ordered by a hash of seed and text; `texts` are the first of them, to explain weights."""

    hashes: list[np.ndarray]
    keys: list[bytes]
    texts: list[str]

    def part(self, name: str) -> list[np.ndarray]:
        """The examples of a part: held_out, calibration or train."""
        held = round(len(self.hashes) * SHARES["held_out"])
        calibration = held + round(len(self.hashes) * SHARES["calibration"])
        return {
            "held_out": self.hashes[:held],
            "calibration": self.hashes[held:calibration],
            "train": self.hashes[calibration:],
        }[name]


def train(good: Iterable[str], bad: Iterable[str], settings: TrainingSettings, name: str = "") -> LinearModel:
    """A calibrated model that gives good texts the higher probability. DataError if either side has too few."""
    sides = [collect(texts, settings) for texts in (bad, good)]
    shared = set(sides[0].keys) & set(sides[1].keys)
    sides = [without(side, shared) for side in sides]
    for side, word in zip(sides, ("bad", "good")):
        if len(side.hashes) < LEAST_EXAMPLES:
            raise DataError(
                f"{len(side.hashes)} different {word} examples, which is too few to train and measure a classifier",
                hint=f"Give at least {LEAST_EXAMPLES} on each side; some hundreds are a sensible beginning."
                + (f" {len(shared)} texts stood on both sides and were left out." if shared else ""),
            )
    raw = fit([side.part("train") for side in sides], settings)
    model = calibrated(raw, [side.part("calibration") for side in sides])
    held = [model.scores(side.part("held_out")) for side in sides]
    facts = {
        "name": name,
        "settings": asdict(settings),
        "examples": {
            word: {part: len(side.part(part)) for part in ("train", "calibration", "held_out")}
            for word, side in zip(("bad", "good"), sides)
        },
        "left_out": {"on_both_sides": len(shared)},
        **measured(held[0], held[1]),
        "strongest": strongest(model, sides, set(settings.ignored)),
    }
    return LinearModel(model.weights, model.bias, model.ngrams, facts)


def collect(texts: Iterable[str], settings: TrainingSettings) -> Examples:
    """The different texts that are not blank, in the order of their hash; at most `max_examples`."""
    kept: dict[bytes, str] = {}
    heap: list[tuple[int, bytes]] = []  # the largest key first
    for text in texts:
        text = text[: settings.max_words * WORD_BYTES]
        if not text or text.isspace():
            continue
        key = hashlib.blake2b(f"{settings.seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if key in kept:
            continue
        kept[key] = text
        heapq.heappush(heap, (-int.from_bytes(key), key))
        if len(heap) > settings.max_examples:
            del kept[heapq.heappop(heap)[1]]
    keys = sorted(kept)
    hashes = [word_hashes([Reading(kept[key])])[0][: settings.max_words].copy() for key in keys]
    return Examples(hashes, keys, [kept[key] for key in keys[-EXPLAINED_EXAMPLES:]])


def without(side: Examples, keys: set[bytes]) -> Examples:
    """`side` without the texts that `keys` name."""
    if not keys:
        return side
    stays = [key not in keys for key in side.keys]
    pick = [place for place, stay in enumerate(stays) if stay]
    return Examples([side.hashes[place] for place in pick], [side.keys[place] for place in pick], side.texts)


@dataclass(frozen=True)
class Features:
    """n-grams of many texts: `ids` [F] int32 in 0 … len(buckets) - 1, text n at `ids[borders[n] : borders[n + 1]]`."""

    ids: np.ndarray
    borders: np.ndarray
    buckets: np.ndarray  # [U] which bucket an id means


def features(texts: Sequence[np.ndarray], settings: TrainingSettings) -> Features:
    """The n-grams of each text that occur in enough texts."""
    ignored = np.array([known_words()[word] for word in settings.ignored], np.uint64)
    per_text, meant = [], []
    for one in texts:
        orders = range(1, min(settings.ngrams, len(one)) + 1)
        per_text.append(np.concatenate([buckets_of(one, order, settings.buckets) for order in orders]))
        telling = ~np.isin(one, ignored)
        meant.append(np.concatenate([sliding_any(telling, order) for order in orders]))
    spread = np.zeros(settings.buckets, np.int32)  # in how many texts a bucket occurs
    for one, telling in zip(per_text, meant):
        spread[np.unique(one[telling])] += 1
    used = spread >= settings.min_examples
    place = np.cumsum(used).astype(np.int32) - 1
    ids = np.concatenate(per_text)
    # A text's n-grams without a weight still count in its mean, as they do when a text is scored: id -1.
    weighed = used[ids] & np.concatenate(meant)
    return Features(
        np.where(weighed, place[ids], np.int32(-1)),
        np.cumsum([0, *(len(one) for one in per_text)]),
        np.flatnonzero(used),
    )


def sliding_any(flags: np.ndarray, width: int) -> np.ndarray:
    """[T] to [T - width + 1]: True where any of `width` neighbours is."""
    result = flags[: len(flags) - width + 1].copy()
    for later in range(1, width):
        result |= flags[later : len(flags) - width + 1 + later]
    return result


def fit(sides: Sequence[list[np.ndarray]], settings: TrainingSettings) -> LinearModel:
    """Weights that part the bad (`sides[0]`) from the good, not calibrated yet."""
    texts = [*sides[0], *sides[1]]
    found = features(texts, settings)
    target = np.repeat([0.0, 1.0], [len(side) for side in sides])
    balance = np.where(target > 0, 0.5 / len(sides[1]), 0.5 / len(sides[0])) * len(texts)
    size = len(found.buckets) + 1  # the last stands for n-grams without a weight: id -1
    weights, squares = np.zeros(size), np.full(size, 1e-10)
    bias, bias_squares = 0.0, 1e-10
    random = np.random.default_rng(settings.seed)
    for _ in range(settings.epochs):
        order = random.permutation(len(texts))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids = np.concatenate([found.ids[found.borders[row] : found.borders[row + 1]] for row in rows])
            lengths = (found.borders[rows + 1] - found.borders[rows]).astype(np.int64)
            owner = np.repeat(np.arange(len(rows)), lengths)
            logits = bias + np.bincount(owner, weights[ids], len(rows)) / lengths
            error = (1 / (1 + np.exp(-np.clip(logits, -30, 30))) - target[rows]) * balance[rows] / len(rows)
            touched, place = np.unique(ids, return_inverse=True)
            slope = np.bincount(place, (error / lengths)[owner]) + settings.l2 * weights[touched]
            squares[touched] += slope**2
            weights[touched] -= settings.learning_rate * slope / np.sqrt(squares[touched])
            weights[-1] = 0.0
            bias_squares += error.sum() ** 2
            bias -= 0.1 * error.sum() / np.sqrt(bias_squares)
    dense = np.zeros(settings.buckets, np.float32)
    dense[found.buckets] = weights[:-1]
    return LinearModel(dense, float(bias), settings.ngrams, {})


def calibrated(model: LinearModel, sides: Sequence[list[np.ndarray]]) -> LinearModel:
    """`model` with scale and bias so that its probabilities hold on `sides`, both weighing the same (Platt 1999).

    Newton's method on two numbers; a little pull towards scale 1 keeps it finite where the sides part without fault.
    """
    logits = [np.array([logit(model, one) for one in side]) for side in sides]
    x = np.concatenate(logits)
    # Platt's targets, which are not quite 0 and 1, keep a perfect separation from driving the scale to infinity.
    y = np.concatenate(
        [np.full(len(logits[0]), 1 / (len(logits[0]) + 2)), np.full(len(logits[1]), 1 - 1 / (len(logits[1]) + 2))]
    )
    weight = np.concatenate([np.full(len(side), 0.5 / len(side)) for side in logits])
    scale, bias = 1.0, 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(scale * x + bias, -30, 30)))
        slope = np.array([(weight * (p - y) * x).sum(), (weight * (p - y)).sum()])
        curve = weight * p * (1 - p)
        second = np.array([[(curve * x * x).sum(), (curve * x).sum()], [(curve * x).sum(), curve.sum()]])
        step = np.linalg.solve(second + 1e-6 * np.eye(2), slope)
        step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-12))  # at most 1 in either number: Newton may overshoot
        scale, bias = scale - step[0], bias - step[1]
        if np.abs(step).max() < 1e-9:
            break
    scale = max(float(scale), 1e-3)  # a negative one would turn good and bad round
    # What is stored is in half precision; the same rounding here makes a saved and loaded model give equal scores.
    weights = (model.weights * scale).clip(-6e4, 6e4).astype(np.float16).astype(np.float32)
    return LinearModel(weights, float(model.bias * scale + bias), model.ngrams, {})


def logit(model: LinearModel, hashes: np.ndarray) -> float:
    """Before the logistic function, of one text."""
    total, count = model.sums(hashes, np.array([len(hashes)]))
    return model.bias + float(total.astype(np.float64).sum()) / max(1, int(count.sum()))


def strongest(model: LinearModel, sides: Sequence[Examples], ignored: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The n-grams that push a text most to either side: by weight times how often they occur in some of the examples.

    Weights belong to buckets; of n-grams that share one, the most frequent is named.
    """
    counts: dict[tuple[str, ...], int] = {}
    for text in chain_texts(sides):
        words = [word.lower() for word in Reading(text).tokens]
        for order in range(1, model.ngrams + 1):
            for gram in zip(*(words[back:] for back in range(order))):
                counts[gram] = counts.get(gram, 0) + 1
    told = ((gram, n) for gram, n in counts.items() if n >= 3 and not set(gram) <= ignored)
    frequent = sorted(told, key=lambda pair: (-pair[1], pair[0]))
    named: dict[int, tuple[str, int]] = {}
    for gram, count in frequent:
        hashes = np.array([known_words()[word] for word in gram], np.uint64)
        bucket = int(buckets_of(hashes, len(gram), len(model.weights))[0])
        named.setdefault(bucket, (" ".join(gram), count))
    pushed = sorted(
        ((float(model.weights[bucket]) * count, text) for bucket, (text, count) in named.items()),
        key=lambda pair: (-pair[0], pair[1]),
    )
    return {
        "good": [{"ngram": text, "push": round(push, 1)} for push, text in pushed[:SHOWN] if push > 0],
        "bad": [{"ngram": text, "push": round(push, 1)} for push, text in pushed[: -SHOWN - 1 : -1] if push < 0],
    }


def chain_texts(sides: Sequence[Examples]) -> Iterable[str]:
    """The texts kept for explanation, of both sides."""
    for side in sides:
        yield from side.texts
