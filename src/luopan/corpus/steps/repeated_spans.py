"""Documents in which a short span stands many times in a row: such rows cause loss spikes in training.

OLMo 2 (arXiv:2501.00656) takes out what has 32 or more repeats of a span of 1 to 13 tokens. Tokens here
are words, characters of scripts without spaces and runs of one symbol (`dedup/hashed.py`), before any tokenizer exists;
so a long rule of hyphens is one token, and a table's empty row `| | | |` is one for each bar. Case does not count.
"""

from __future__ import annotations

import numpy as np

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.dedup.hashed import HashedWords, hashed_words
from luopan.corpus.dedup_config import SpanConfig

SHOWN = 60  # characters of the span in the reason
LOOKS = 6  # places compared in what might be a run; with one, every third text got a closer look


def repeated_spans(batch: DocumentBatch, config: SpanConfig) -> Outcome:
    """Rejects documents in which a span stands more than `max_repeats` times in a row; the span is in the reason."""
    words = hashed_words(batch.texts, symbols=True)
    rejected, stays = [], [True] * len(batch)
    for row in candidates(words, config):
        repeats, first, period = longest_run(words.hashes[words.bounds[row] : words.bounds[row + 1]], config.max_span)
        if repeats <= config.max_repeats:
            continue
        first += int(words.bounds[row])
        span = batch.texts[row][words.starts[first] : words.ends[first + period - 1]]
        stays[row] = False
        rejected.append(
            rejection(
                batch,
                row,
                "repeated_spans",
                "max_repeats",
                value=float(repeats),
                threshold=float(config.max_repeats),
                detail=f"{repeats} times in a row: {' '.join(span[:SHOWN].split())}",
            )
        )
    return Outcome(batch.keep(stays), rejected)


def candidates(words: HashedWords, config: SpanConfig) -> list[int]:
    """Numbers of the texts worth a closer look, none that has too many repeats left out.

    A span of p tokens that stands r times equals what is p before it for (r - 1) * p tokens in a row. Of so many
    neighbours some are looked at, and all of them have to be equal: less than one comparison per word for all lengths.
    """
    hashes = words.hashes
    found: set[int] = set()
    for period in range(1, config.max_span + 1):
        needed = config.max_repeats * period
        looks = min(LOOKS, needed)
        stride = needed // looks  # so any `needed` in a row hold that many places that are looked at
        equal = hashes[period::stride] == hashes[: max(0, len(hashes) - period) : stride]
        all_equal = equal[: max(0, len(equal) - looks + 1)].copy()
        for look in range(1, looks):
            all_equal &= equal[look : len(all_equal) + look]
        places = np.flatnonzero(all_equal) * stride
        found.update((np.searchsorted(words.bounds, places, side="right") - 1).tolist())
    return sorted(found)


def longest_run(hashes: np.ndarray, max_span: int) -> tuple[int, int, int]:
    """(most times that a span stands in a row, its first token, its length) in one text; the shorter span if equal."""
    best = (1, 0, 1)
    for period in range(1, min(max_span, len(hashes) - 1) + 1):
        same = np.concatenate(([False], hashes[period:] == hashes[:-period], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        if len(lengths):
            longest = int(lengths.argmax())
            best = max(
                best, (int(lengths[longest]) // period + 1, int(starts[longest]), period), key=lambda run: run[0]
            )
    return best
