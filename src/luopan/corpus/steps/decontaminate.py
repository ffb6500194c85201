"""Documents that hold prompts or answers of evaluation sets, found by words in a row.

The idea is GPT-3's (arXiv:2005.14165, appendix C). `dedup/ngram_index.py` says what is looked for and what cannot be
found. A document with more than `max_matches` places that match is rejected whole, where GPT-3 cut 200 characters out
around each and kept the rest.
"""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.dedup.hashed import hashed_words
from luopan.corpus.dedup.ngram_index import Match, index_for
from luopan.corpus.dedup_config import DecontaminateConfig

SHOWN = 160  # characters of the matching words in the reason


def decontaminate(batch: DocumentBatch, config: DecontaminateConfig) -> Outcome:
    """Rejects documents that hold test items; the reason names set, file and row and quotes the words.

    Counts the rejected documents by set (`in_<set>`: of the first match). DataError if a set cannot be read.
    """
    index = index_for(config)
    words = hashed_words(batch.texts)
    places: dict[int, list[Match]] = {}
    for match in index.matches(words):
        places.setdefault(match.text, []).append(match)
    counts: dict[str, int] = {}
    stays, rejected = [True] * len(batch), []
    for row, found in places.items():
        if len(found) <= config.max_matches:
            continue
        first = found[0]
        quote = " ".join(batch.texts[row][words.starts[first.first] : words.ends[first.last]].split())
        name = index.sets[first.item]
        stays[row] = False
        counts[f"in_{name}"] = counts.get(f"in_{name}", 0) + 1
        rejected.append(
            rejection(
                batch,
                row,
                "decontaminate",
                "max_matches",
                value=float(len(found)),
                threshold=float(config.max_matches),
                detail=f"{name}, {index.where[first.item]}: {quote[:SHOWN]}",
            )
        )
    return Outcome(batch.keep(stays), rejected, counts)


def gaps(config: DecontaminateConfig) -> list[str]:
    """What of the sets cannot be looked for; DataError as `notes`."""
    return index_for(config).gaps


def notes(config: DecontaminateConfig) -> list[str]:
    """How many items of each set are looked for, and how many cannot be; DataError if a set cannot be read."""
    return index_for(config).notes
