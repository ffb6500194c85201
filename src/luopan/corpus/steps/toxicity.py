"""Drops documents full of listed words, and documents that a small classifier calls toxic in most of their passages.

**Word lists** (`word_lists.py`): a document is dropped where entries cover more than `max_listed_share` of its tokens,
and there are at least `min_listed`. A single hit drops nothing: lists that do so take out dialects, minorities' own
words and health pages with the rest (Dodge et al. 2021, arXiv:2104.08758, on C4's). The list is that of the document's
language (meta `language`); where that is not known, each list is tried and the one with the most counts.

**The classifier** is a linear one over words (`tools/train_toxicity.py`), trained on what people wrote to provoke an
assistant, English only. It tells talk about crime, violence, sex and abuse in the way of its training conversations. It
knows no irony, no context and no other language, misses what is said politely, and calls everyday requests to an
assistant (bookings, addresses) toxic far too often. So a document is dropped only where most of its passages of some
100 words are called toxic. It is used for English: by meta `language`, or else by English words of grammar.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files

import numpy as np

from luopan.corpus.batch import DocumentBatch, Outcome, judge
from luopan.corpus.classifier import MULTIPLIER, LinearModel, added, known_words, load_model
from luopan.corpus.safety_config import ToxicityConfig
from luopan.corpus.verdict import Finding, above
from luopan.corpus.word_lists import EVERY_LANGUAGE, SHIFT, WordList, lists, table
from luopan.corpus.word_memory import batch_hashes

PASSAGE = 100  # words and marks
SHORTEST = 20  # words and marks that the classifier wants
GRAMMAR = ("the", "of", "and", "to", "a", "in", "is", "that", "it", "for", "you", "i", "was", "with", "are", "not")
ENGLISH_SHARE = 0.1  # of the tokens among GRAMMAR: English prose has 0.2 to 0.4, other languages under 0.05


def toxicity(batch: DocumentBatch, config: ToxicityConfig) -> Outcome:
    """`batch` without the toxic documents; counts `listed_words`, `passages` and `toxic_passages`.

    DataError where a word list or the classifier is missing or damaged.
    """
    hashes = batch_hashes(batch)
    languages = [meta.get("language") for meta in batch.metas]
    counts: dict[str, int] = {}
    listed = toxic = [(0, 0)] * len(batch)
    if config.max_listed_share is not None:
        known = lists(config.languages, tuple(sorted(config.word_files.items())), config.allow)
        listed = listed_words(known, hashes, languages)
        counts["listed_words"] = sum(hits for hits, _ in listed)
    if config.max_toxic_share is not None:
        toxic = toxic_passages(classifier(config.classifier), hashes, languages, config.passage_score)
        counts["passages"] = sum(passages for _, passages in toxic)
        counts["toxic_passages"] = sum(hits for hits, _ in toxic)

    def verdict(row: int) -> Finding | None:
        hits, covered = listed[row]
        if hits >= config.min_listed:
            share = covered / max(1, len(hashes[row]))
            if finding := above("max_listed_share", share, config.max_listed_share):
                return finding
        toxic_ones, passages = toxic[row]
        return above("max_toxic_share", toxic_ones / max(1, passages), config.max_toxic_share)

    outcome = judge(batch, "toxicity", verdict)
    return Outcome(outcome.batch, outcome.rejected, counts)


def listed_words(
    known: dict[str, WordList], hashes: list[np.ndarray], languages: list[str | None]
) -> list[tuple[int, int]]:
    """Per text (entries, tokens that they cover) by the list of its language, or the list that finds most."""
    best = [(0, 0)] * len(hashes)
    for name, words in known.items():
        rows = [row for row, language in enumerate(languages) if uses(name, language, known) and len(hashes[row])]
        if rows:
            flat, ends = joined(hashes, rows)
            for row, *hit in zip(rows, *(found.tolist() for found in words.hits(flat, ends))):
                best[row] = max(best[row], (hit[0], hit[1]))
    return best


def uses(name: str, language: str | None, known: dict[str, WordList]) -> bool:
    """A text of a known language has its own list, or the one for every language."""
    return language is None or name == language or (name == EVERY_LANGUAGE and language not in known)


def joined(hashes: list[np.ndarray], rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The words of some texts one after the other [T], and where each text ends."""
    return np.concatenate([hashes[row] for row in rows]), np.cumsum([len(hashes[row]) for row in rows])


def toxic_passages(
    model: LinearModel, hashes: list[np.ndarray], languages: list[str | None], limit: float
) -> list[tuple[int, int]]:
    """(passages at or above `limit`, passages) of each text; (0, 0) of those that are not English or very short."""
    result = [(0, 0)] * len(hashes)
    rows = english(hashes, languages)
    if not rows:
        return result
    flat, ends = joined(hashes, rows)
    sizes = np.diff(ends, prepend=0)
    total, count = model.sums(flat, ends)
    pieces = np.maximum(1, sizes // PASSAGE)
    owner = np.repeat(np.arange(len(rows)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = (ends - sizes)[owner] + number * sizes[owner] // pieces[owner]
    borders = np.append(starts[1:], len(flat))
    toxic = model.probabilities(added(total, starts, borders), added(count, starts, borders)) >= limit
    hits = np.bincount(owner, toxic, len(rows)).astype(int)
    for place, row in enumerate(rows):
        result[row] = (int(hits[place]), int(pieces[place]))
    return result


def english(hashes: list[np.ndarray], languages: list[str | None]) -> list[int]:
    """The texts that are said to be English, or that nothing is said of and that have English words of grammar."""
    long = [row for row, one in enumerate(hashes) if len(one) >= SHORTEST]
    unknown = [row for row in long if languages[row] is None]
    told = {row for row in long if languages[row] == "en"}
    if unknown:
        flat, ends = joined(hashes, unknown)
        sizes = np.diff(ends, prepend=0)
        found = added(grammar_table()[(flat * MULTIPLIER) >> SHIFT], ends - sizes, ends)
        told |= {row for row, enough in zip(unknown, found >= ENGLISH_SHARE * sizes) if enough}
    return sorted(told)


@lru_cache(maxsize=1)
def grammar_table() -> np.ndarray:
    """Where hashes of English words of grammar fall; one other word in 4,000 falls there too."""
    return table(known_words()[word] for word in GRAMMAR)


def classifier(name: str) -> LinearModel:
    """The classifier that comes with Luopan, or one of the user's."""
    if name != "packaged":
        return load_model(name)
    with as_file(files("luopan.corpus") / "data" / "toxicity-en.safetensors") as path:
        return load_model(str(path))
