"""The documents of an update as batches: a prompt stands once before all its answers, and nothing is padded where
nothing needs padding.

Answers to one prompt that fit a row together become a trunk and its branches (`model.branches`): what the model makes
of them and their gradients are those of separate documents, up to rounding, and the prompt is computed once. Rows are
what is dealt out over ranks and micro-batches. Within a micro-batch they may be laid end to end into one row, which
leaves no position empty; attention knows documents, not rows.

Limit: one row costs nothing where attention goes by documents (CPU); a back-end that masks all scores of a row would
pay for their square, so elsewhere rows stay rows, as long as the fullest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luopan.rl.buffer import Unit
from luopan.tokens.batch import Batch, Doc, collate
from luopan.tokens.example import IGNORE, share_prefix
from luopan.tokens.packing import best_fit_decreasing


def pack_units(units: Sequence[Unit], capacity: int, *, share_prompts: bool) -> list[list[Doc]]:
    """Rows of whole units, of at most `capacity` tokens each. DataError for a unit that is longer."""
    bundles = shared(units, capacity) if share_prompts else [list(unit) for unit in units]
    bins = best_fit_decreasing([sum(map(len, bundle)) for bundle in bundles], capacity)
    return [[doc for number in chosen for doc in bundles[number]] for chosen in bins]


def lay_out(rows: Sequence[Sequence[Doc]], pad_id: int, *, one_row: bool) -> Batch:
    """A micro-batch of at least one row: one long row without padding, or rows as long as the fullest."""
    if one_row:
        rows = [[doc for row in rows for doc in row]]
    return collate(rows, max(sum(map(len, row)) for row in rows), pad_id)


def shared(units: Sequence[Unit], capacity: int) -> list[list[Doc]]:
    """Documents of units with one prompt put together, as many as `capacity` takes, in the order in which they come."""
    bundles: list[list[Doc]] = []
    sizes: list[int] = []
    latest: dict[bytes, int] = {}  # which bundle still takes answers to a prompt
    for unit in units:
        prompts = {prompt_of(doc) for doc in unit}
        if len(prompts) > 1:  # answers to several prompts: a unit of its own, as it is
            bundles.append(list(unit))
            sizes.append(capacity)
            continue
        (prompt,) = prompts
        length = len(prompt) // 8
        own = sum(max(1, len(doc) - length) for doc in unit)
        place = latest.get(prompt)
        if place is None or sizes[place] + own > capacity:
            place = latest[prompt] = len(bundles)
            bundles.append([])
            sizes.append(length)
        bundles[place] += unit
        sizes[place] += own
    return [share_prefix(bundle) if len({prompt_of(doc) for doc in bundle}) == 1 else bundle for bundle in bundles]


def prompt_of(doc: Doc) -> bytes:
    """The tokens before the first trained one, as int64."""
    trained = np.flatnonzero(np.asarray(doc.labels) != IGNORE)
    end = int(trained[0]) if trained.size else len(doc)
    return np.asarray(doc.input_ids[:end], np.int64).tobytes()
