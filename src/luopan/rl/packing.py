"""The documents of an update as batches: what answers to one prompt have in common is computed once, and next to
nothing is padding.

Rows are what is dealt out over ranks and micro-batches: whole units, answers to one prompt side by side. Where
attention goes by documents (CPU) the rows of a micro-batch become one row in which every distinct token of a prompt's
answers is computed once (`tokens.merged`). Elsewhere rows stay rows, as long as the fullest of them, because a back-end
that masks the scores of a row would pay for its square; there a prompt stands once before its answers. Either way loss
and gradients are those of separate documents, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from luopan.rl.buffer import Unit
from luopan.tokens.batch import Batch, Doc, collate
from luopan.tokens.example import share_prefix
from luopan.tokens.merged import collate_merged, prompt_of
from luopan.tokens.packing import best_fit_decreasing

# Positions of a row come in these. Every update would else have a shape of its own, for each of which oneDNN keeps
# products made to measure: the process grew by 6 MB an update (docs/log.md).
MULTIPLE = 64


def pack_units(units: Sequence[Unit], capacity: int, *, share_prompts: bool) -> list[list[Doc]]:
    """Rows of whole units, with `share_prompts` those with one prompt side by side; at most `capacity` tokens each, of
    which a prompt that is shared counts once. DataError for a unit that is longer."""
    bundles, sizes = together(units, capacity) if share_prompts else ([*map(list, units)], [*map(size, units)])
    bins = best_fit_decreasing(sizes, capacity)
    return [[doc for number in chosen for doc in bundles[number]] for chosen in bins]


def lay_out(rows: Sequence[Sequence[Doc]], pad_id: int, *, share_prompts: bool, one_row: bool) -> Batch:
    """A micro-batch of at least one row of `pack_units`."""
    if one_row:
        rows = [[doc for row in rows for doc in row]]
        if share_prompts:
            return collate_merged(rows[0], pad_id, multiple=MULTIPLE)
    elif share_prompts:
        # Answers to different prompts may begin alike too, but must not come between those to one.
        rows = [[doc for _, run in groupby(row, prompt_of) for doc in share_prefix(list(run))] for row in rows]
    longest = max(map(size, rows))
    return collate(rows, longest + (-longest % MULTIPLE if one_row else 0), pad_id)


def size(documents: Sequence[Doc]) -> int:
    """Their tokens."""
    return sum(map(len, documents))


def together(units: Sequence[Unit], capacity: int) -> tuple[list[list[Doc]], list[int]]:
    """Documents of units with one prompt put together, as many as `capacity` takes, in the order in which they come;
    and the tokens of each lot."""
    bundles: list[list[Doc]] = []
    sizes: list[int] = []
    latest: dict[bytes, int] = {}  # which bundle still takes answers to a prompt
    for unit in units:
        prompts = {prompt_of(doc) for doc in unit}
        if len(prompts) > 1:  # answers to several prompts: a unit of its own
            bundles.append(list(unit))
            sizes.append(size(unit))
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
    return bundles, sizes
