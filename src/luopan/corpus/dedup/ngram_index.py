"""Evaluation sets as an index of n-grams: which words in a row belong to which item.

The columns of an item are joined in their order, so that an n-gram may reach from the prompt into the answer. A column,
or a whole item, that is shorter than an n-gram but has `min_words` is looked for whole: its first `min_words` words are
in the index, with a hash of all its words to confirm. N-grams in more than `max_items` items of a set are its common
wording and left out. In scripts without spaces two characters count as one word (`words.CHARACTERS_PER_WORD`).

Limits: a question in other words is not found, nor one in another language; items with less than `min_words` in all
are not looked for (`NgramIndex.notes` counts them). Some 40 bytes of memory per n-gram, in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from luopan.corpus.dedup.eval_sets import Item, items, set_files
from luopan.corpus.dedup.hashed import HashedWords, hashed_words, joined
from luopan.corpus.dedup_config import DecontaminateConfig
from luopan.corpus.words import CHARACTERS_PER_WORD
from luopan.errors import DataError

# `words` is the hash of all `length` words, `hash` that of the first n of them (the same where length is n).
ENTRY = np.dtype([("n", np.int64), ("hash", np.uint64), ("item", np.int64), ("length", np.int64), ("words", np.uint64)])


@dataclass(frozen=True)
class Grams:
    """N-grams of one length, sorted by hash. Entry i belongs to item items[i]; where lengths[i] is more than n, so many
    words must have the hash words[i].
    """

    n: int
    hashes: np.ndarray  # [G] uint64
    items: np.ndarray  # [G] int64
    lengths: np.ndarray  # [G] int64
    words: np.ndarray  # [G] uint64
    sieve: np.ndarray  # [2^k] bool: whether the last k bits of any hash are these


@dataclass(frozen=True)
class Match:
    """Words first … last of text `text` (counted through all texts) are those of item `item`."""

    text: int
    first: int
    last: int
    item: int


class NgramIndex:
    """All items of all sets, ready to be looked for. DataError for a set of which nothing can be."""

    def __init__(self, config: DecontaminateConfig) -> None:
        self.sets: list[str] = []
        self.where: list[str] = []
        entries: list[np.ndarray] = []
        self.notes: list[str] = []
        self.gaps: list[str] = []  # the notes of sets that are not looked for whole
        for name, own in by_set(list(items(config)), config):
            found, kept, short, common = entries_of(own, config, len(self.where))
            if not kept:
                raise DataError(
                    f"nothing of the evaluation set {name} can be looked for: {short:,} of {len(own):,} items have "
                    f"fewer than {config.min_words} words, the wording of the others is common",
                    where=config.sets[name].path,
                    hint="Name further columns (the answer, the choices), or lower min_words.",
                )
            entries.append(found)
            self.sets.extend(item.set for item in own)
            self.where.extend(item.where for item in own)
            self.notes.append(note(name, len(own), kept, short, common, config))
            if kept < len(own) or common:
                self.gaps.append(self.notes[-1])
        together = np.concatenate(entries)
        self.grams = [table(together[together["n"] == n], int(n)) for n in np.unique(together["n"])]

    def matches(self, words: HashedWords) -> list[Match]:
        """Every place where an n-gram of an item begins, one item for each, in the order of the words."""
        found: dict[int, Match] = {}
        for grams in self.grams:
            rolled = words.ngrams(grams.n)
            places = np.flatnonzero(grams.sieve[rolled & np.uint64(len(grams.sieve) - 1)])
            at = np.minimum(np.searchsorted(grams.hashes, rolled[places]), len(grams.hashes) - 1)
            equal = grams.hashes[at] == rolled[places]  # the sieve lets one in twenty through
            places, at = places[equal], at[equal]
            for place, entry in zip(places.tolist(), at.tolist()):
                text = int(np.searchsorted(words.bounds, place, side="right")) - 1
                match = confirmed(words, grams, place, entry, int(rolled[place]), text)
                if match is not None and (place not in found or match.last > found[place].last):
                    found[place] = match
        return [found[place] for place in sorted(found)]


def by_set(found: Sequence[Item], config: DecontaminateConfig) -> list[tuple[str, list[Item]]]:
    """The items of each set, in the order of the configuration."""
    return [(name, [item for item in found if item.set == name]) for name in config.sets]


def entries_of(own: Sequence[Item], config: DecontaminateConfig, first: int) -> tuple[np.ndarray, int, int, int]:
    """(entries [E] of a set, items with an entry, items that are too short, n-grams left out as common wording)."""
    words = hashed_words([text for item in own for text in item.texts])
    columns = np.cumsum([0, *(len(item.texts) for item in own)])  # [items + 1] where each one's columns begin
    bounds = words.bounds[columns]  # [items + 1] where its words begin
    sizes = np.diff(bounds)
    owner = np.repeat(np.arange(len(own)), sizes)  # [W]
    unspaced = np.bincount(owner, words.singles, len(own)) * 2 > sizes
    scale = np.where(unspaced, CHARACTERS_PER_WORD, 1)  # [items]
    parts = []
    for factor in (1, CHARACTERS_PER_WORD):
        parts.append(long_entries(words, owner, scale == factor, config.ngram * factor))
        for item in np.flatnonzero(scale == factor).tolist():
            edges = words.bounds[columns[item] : columns[item + 1] + 1].tolist()
            spans = dict.fromkeys([*pairwise(edges), (edges[0], edges[-1])])
            for low, high in spans:
                if config.min_words * factor <= high - low < config.ngram * factor:
                    parts.append(short_entry(words.hashes[low:high], config.min_words * factor, item))
    entries = np.concatenate(parts)
    entries, common = without_common(entries, config.max_items)
    short = int((sizes < config.min_words * scale).sum())
    kept = len(np.unique(entries["item"]))
    entries["item"] += first
    return entries, kept, short, common


def long_entries(words: HashedWords, owner: np.ndarray, mask: np.ndarray, n: int) -> np.ndarray:
    """[E] an entry for each n-gram of each item of `mask` [items]."""
    hashes = words.ngrams(n)
    owner, last = owner[: len(hashes)], owner[n - 1 :]
    inside = (owner == last) & mask[owner]
    entries = np.zeros(int(inside.sum()), ENTRY)
    entries["n"] = entries["length"] = n
    entries["hash"] = entries["words"] = hashes[inside]
    entries["item"] = owner[inside]
    return entries


def short_entry(hashes: np.ndarray, n: int, item: int) -> np.ndarray:
    """[1] an entry for some words that are more than n but no n-gram of the usual length."""
    return np.array([(n, joined(hashes[:n]), item, len(hashes), joined(hashes))], ENTRY)


def without_common(entries: np.ndarray, max_items: int | None) -> tuple[np.ndarray, int]:
    """(an entry for each item of the words that at most `max_items` items have, number of words that went)."""
    entries = entries[np.lexsort((entries["item"], entries["words"]))]
    again = (entries["words"][1:] == entries["words"][:-1]) & (entries["item"][1:] == entries["item"][:-1])
    entries = entries[np.concatenate((np.ones(min(1, len(entries)), bool), ~again))]
    if max_items is None or not len(entries):
        return entries, 0
    starts = np.flatnonzero(np.concatenate(([True], entries["words"][1:] != entries["words"][:-1])))
    sizes = np.diff(starts, append=len(entries))
    rare = sizes <= max_items
    return entries[np.repeat(rare, sizes)], int((~rare).sum())


def table(entries: np.ndarray, n: int) -> Grams:
    """Entries of one length; of those with the same words the one for the first item."""
    entries = entries[np.lexsort((entries["item"], entries["words"], entries["hash"]))]
    entries = entries[np.concatenate(([True], entries["words"][1:] != entries["words"][:-1]))]
    bits = min(26, max(16, (16 * len(entries)).bit_length()))
    sieve = np.zeros(1 << bits, bool)
    sieve[entries["hash"] & np.uint64(len(sieve) - 1)] = True
    hashes, own, lengths, words = (np.ascontiguousarray(entries[name]) for name in ("hash", "item", "length", "words"))
    return Grams(n, hashes, own, lengths, words, sieve)


def confirmed(words: HashedWords, grams: Grams, place: int, entry: int, hash: int, text: int) -> Match | None:
    """The match that begins at word `place` of `text`, if any entry from `entry` on with this hash holds."""
    end = int(words.bounds[text + 1])
    while entry < len(grams.hashes) and int(grams.hashes[entry]) == hash:
        length = int(grams.lengths[entry])
        whole = length == grams.n or joined(words.hashes[place : place + length]) == grams.words[entry]
        if whole and place + length <= end:
            return Match(text, place, place + length - 1, int(grams.items[entry]))
        entry += 1
    return None


def note(name: str, count: int, kept: int, short: int, common: int, config: DecontaminateConfig) -> str:
    """What is looked for of a set, in words."""
    text = f"{name}: {kept:,} of {count:,} test items are looked for"
    if short:
        text += f"; {short:,} have fewer than {config.min_words} words"
    if common:
        text += f"; {common:,} n-grams are in more than {config.max_items} items and tell nothing"
    return text


def index_for(config: DecontaminateConfig) -> NgramIndex:
    """The index of a configuration, built once per process (again if a file changed)."""
    stamps = []
    for given in config.sets.values():
        for file in set_files(given):
            state = file.path.stat()
            stamps.append((str(file.path), state.st_size, state.st_mtime_ns))
    return built(config.model_dump_json(), tuple(stamps))


@lru_cache(maxsize=2)
def built(config: str, stamps: tuple[tuple[str, int, int], ...]) -> NgramIndex:
    return NgramIndex(DecontaminateConfig.model_validate_json(config))
