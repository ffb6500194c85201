"""The last choice: who stays under the cap of its source, and who is held out, in view of all documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luopan.corpus.config import HeldOutConfig
from luopan.corpus.select import held_out, under_cap
from luopan.errors import DataError


@dataclass(frozen=True)
class Choice:
    """What becomes of each document; [documents] bool each, in the order of the splits."""

    capped: np.ndarray  # over its source's cap
    held_out: np.ndarray


def choose(
    source: np.ndarray,
    size: np.ndarray,
    cap_key: np.ndarray,
    held_key: np.ndarray,
    caps: Sequence[int | None],
    config: HeldOutConfig,
) -> Choice:
    """Decide for every document. `source` [N]: the number of its source, an index of `caps` (bytes); `size` [N] bytes;
    `cap_key`, `held_key` [N] uint64: hashes of its id that order documents at random.

    DataError if nothing is left to train on, or nothing to hold out though asked for.
    """
    capped, apart = np.zeros(len(source), bool), np.zeros(len(source), bool)
    for number, cap in enumerate(caps):
        own = np.flatnonzero(source == number)
        stays = under_cap(cap_key[own], size[own], cap)
        capped[own[~stays]] = True
        own = own[stays]
        apart[own[held_out(held_key[own], size[own], config)]] = True
    if capped.all():
        raise DataError("max_bytes leaves no document", hint="Raise corpus.max_bytes, or cut documents smaller.")
    wanted = config.fraction > 0 or config.min_documents > 0
    if wanted and not apart.any():
        raise DataError(
            f"{int((~capped).sum())} document(s) are too few to hold one out, and without it nothing can be measured",
            hint="Give more text, cut it finer (max_document_bytes), or set held_out.fraction and min_documents to 0.",
        )
    return Choice(capped, apart)
