"""The second pass: who stays under the cap, who is held out, and writing each to its file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from luopan.corpus import store
from luopan.corpus.card import SAMPLE_CHARACTERS, SAMPLES
from luopan.corpus.config import CurateConfig
from luopan.corpus.document import Rejected
from luopan.corpus.funnel import Funnel
from luopan.corpus.select import held_out, key, under_cap
from luopan.errors import DataError


class Index:
    """What this pass must know of each document that stayed so far: 28 bytes of it."""

    def __init__(self) -> None:
        self.source, self.size = array("I"), array("Q")
        self.cap_key, self.held_out_key = array("Q"), array("Q")

    def add(self, source: int, size: int, id: str) -> None:
        """Remember the next document: the number of its source, its bytes, its id (as hashes)."""
        self.source.append(source)
        self.size.append(size)
        self.cap_key.append(key("cap", id))
        self.held_out_key.append(key("held out", id))


@dataclass(frozen=True)
class Choice:
    """What becomes of each document that stayed; all arrays are [documents], in the order of the scratch file."""

    source: np.ndarray
    size: np.ndarray
    capped: np.ndarray  # bool: over its source's cap
    held_out: np.ndarray  # bool
    caps: Sequence[int | None]  # by source number
    sample: np.ndarray  # bool: shown in the data card

    @property
    def train(self) -> np.ndarray:
        return ~self.capped & ~self.held_out

    def sizes(self, chosen: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Bytes of the chosen documents, by the name of their source."""
        return {name: self.size[chosen & (self.source == number)] for number, name in enumerate(names)}


def choose(index: Index, names: Sequence[str], caps: Sequence[int | None], config: CurateConfig) -> Choice:
    """Decide for every document. DataError if nothing is left to train on, or nothing to hold out though asked for."""
    source, size = np.array(index.source, np.int64), np.array(index.size, np.int64)
    cap_key, held_out_key = np.array(index.cap_key, np.uint64), np.array(index.held_out_key, np.uint64)
    capped, apart, sample = (np.zeros(len(source), bool) for _ in range(3))
    for number in range(len(names)):
        own = np.flatnonzero(source == number)
        stays = under_cap(cap_key[own], size[own], caps[number])
        capped[own[~stays]] = True
        own = own[stays]
        apart[own[held_out(held_out_key[own], size[own], config.held_out)]] = True
        train = own[~apart[own]]
        sample[train[np.argsort(cap_key[train], kind="stable")[:SAMPLES]]] = True
    if capped.all():
        raise DataError("max_bytes leaves no document", hint="Raise corpus.max_bytes, or cut documents smaller.")
    wanted = config.held_out.fraction > 0 or config.held_out.min_documents > 0
    if wanted and not apart.any():
        raise DataError(
            f"{int((~capped).sum())} document(s) are too few to hold one out, and without it nothing can be measured",
            hint="Give more text, cut it finer (max_document_bytes), or set held_out.fraction and min_documents to 0.",
        )
    return Choice(source, size, capped, apart, caps, sample)


def write_chosen(
    kept: Path, folder: Path, choice: Choice, names: Sequence[str], funnel: Funnel, rejected: store.Writer
) -> dict[str, list[dict[str, str]]]:
    """Part the scratch file `kept` into train and held-out files in `folder`; returns {id, text} samples by source."""
    samples: dict[str, list[dict[str, str]]] = {}
    at = 0
    with (
        store.Writer(folder / "train.parquet", store.DOCUMENTS) as train,
        store.Writer(folder / "held_out.parquet", store.DOCUMENTS) as held,
    ):
        for batch in store.batches(kept):
            rows = slice(at, at + batch.num_rows)
            at += batch.num_rows
            train.batch(batch.filter(pa.array(choice.train[rows])))
            held.batch(batch.filter(pa.array(choice.held_out[rows])))
            for row in batch.filter(pa.array(choice.sample[rows])).to_pylist():
                shown = {"id": row["id"], "text": row["text"][:SAMPLE_CHARACTERS]}
                samples.setdefault(row["source"], []).append(shown)
            over = choice.capped[rows]
            sizes, sources = choice.size[rows][over], choice.source[rows][over]
            for row, size, source in zip(batch.filter(pa.array(over)).to_pylist(), sizes, sources):
                reject_capped(row, int(size), choice.caps[source], funnel, rejected)
    count(choice, names, funnel)
    return samples


def reject_capped(row: Mapping[str, str], size: int, cap: int | None, funnel: Funnel, rejected: store.Writer) -> None:
    """A document that went because its source has enough; its text is not kept again."""
    item = Rejected(
        id=row["id"],
        source=row["source"],
        step="cap",
        rule="max_bytes",
        value=float(size),
        threshold=None if cap is None else float(cap),
        detail="the source has enough without it",
        bytes=size,
        meta=json.loads(row["meta"]),
    )
    funnel.rejected(item)
    rejected.rejected(item)


def count(choice: Choice, names: Sequence[str], funnel: Funnel) -> None:
    """Write the last steps into the funnel, and note a source that nothing could be held out of."""
    for step, chosen in (("capped", ~choice.capped), ("train", choice.train), ("held_out", choice.held_out)):
        for name, sizes in choice.sizes(chosen, names).items():
            funnel.passed(step, name, int(sizes.sum()), len(sizes))
            if step == "held_out" and not len(sizes) and funnel.left["capped"][name][0]:
                funnel.note(f"{name} has too few documents to hold one out")
