"""Which conversations of each source a mixture takes, so that the sources have their shares of its tokens.

By tokens and not by rows: a source with one row in a hundred may well have every ninth token. The mixture is as large
as it can be without reading any source more often than it allows, so one source at least is used up and of the others
some rows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luopan.errors import DataError
from luopan.tokens.order import permutation


def by_tokens(
    lengths: Sequence[int], sources: Sequence[int], weights: Sequence[float], max_epochs: Sequence[float], seed: int
) -> list[int]:
    """Numbers of the conversations to take, in rising order; those that are read again come again at the end.

    `lengths` and `sources` of each conversation; `weights` (in any unit) and `max_epochs` of each source. The share of
    each is met to within one conversation. DataError for a source with a weight and no conversation.
    """
    owner, sizes = np.asarray(sources), np.asarray(lengths)
    share = np.asarray(weights) / sum(weights)
    held = np.array([sizes[owner == number].sum() for number in range(len(weights))], dtype=float)
    if (empty := np.flatnonzero(held == 0)).size:
        raise DataError(
            f"source {int(empty[0]) + 1} of the mixture has a weight and no conversation that can be used",
            hint="Leave it out, or look at why its rows are set aside.",
        )
    total = float((held * np.asarray(max_epochs) / share).min())
    chosen: list[int] = []
    again: list[int] = []
    for number, wanted in enumerate(share * total):
        own = np.flatnonzero(owner == number)
        whole, rest = divmod(wanted / held[number], 1)
        if rest > 1 - 1e-9:
            whole, rest = whole + 1, 0.0
        taken = own[permutation(len(own), "mixture", seed, number)]
        cumulative = np.cumsum(sizes[taken])
        # A row counts once the middle of it is within the share: off by half a conversation at most.
        partial = taken[cumulative - sizes[taken] / 2 <= rest * held[number]].tolist()
        if whole:
            chosen += own.tolist()
            again += own.tolist() * (int(whole) - 1) + partial
        else:
            chosen += partial
    return sorted(chosen) + sorted(again)
