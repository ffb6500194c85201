"""What a pass reads and writes of one split: documents that stay, those that do not, the funnel, arrays, a marker.

Files are written under names of this process's own, brought to disk and renamed; the marker comes last, so a split that
has one is whole and is not done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from luopan.artifacts import atomic_write_json
from luopan.artifacts.files import fsync_path
from luopan.corpus import store
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.chain import Step, funnel_steps
from luopan.corpus.config import CurateConfig
from luopan.corpus.document import Rejected
from luopan.corpus.funnel import Funnel


@dataclass(frozen=True)
class Place:
    """Where the passes keep what they write, by split number."""

    folder: Path

    def file(self, kind: str, number: int, suffix: str = "parquet") -> Path:
        return self.folder / kind / f"{number:05d}.{suffix}"

    def files(self, kind: str, count: int, suffix: str = "npy") -> list[Path]:
        return [self.file(kind, number, suffix) for number in range(count)]


@dataclass
class Part:
    """What a pass writes of one split: documents that stay, those that do not, and the funnel."""

    place: Place
    kind: str
    number: int
    config: CurateConfig
    funnel: Funnel = field(init=False)

    def __post_init__(self) -> None:
        self.funnel = Funnel(funnel_steps(self.config))
        (self.place.folder / self.kind).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Part:
        self.stack = ExitStack()
        self.kept = self.stack.enter_context(store.Writer(self.own("parquet"), store.DOCUMENTS, "lz4"))
        self.lost = self.stack.enter_context(store.Writer(self.own("rejected.parquet"), store.REJECTED, "lz4"))
        return self

    def own(self, suffix: str) -> Path:
        """Where a file of this split is written before it is whole."""
        return self.place.file(self.kind, self.number, f"{os.getpid()}.tmp.{suffix}")

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def reject(self, rejected: Iterable[Rejected]) -> None:
        for item in rejected:
            self.funnel.rejected(item)
            self.lost.rejected(item)

    def passed(self, step: str, batch: DocumentBatch) -> None:
        """Count what is left after a step, by source."""
        count(self.funnel, step, batch)

    def apply(self, steps: Sequence[tuple[str, Step, Any]], batch: DocumentBatch) -> DocumentBatch:
        """The batch after the given steps."""
        for name, function, config in steps:
            outcome = function(batch, config)
            self.reject(outcome.rejected)
            self.funnel.counted(name, outcome.counts)
            batch = outcome.batch
            self.passed(name, batch)
        return batch

    def finish(self, **arrays: np.ndarray) -> dict[str, Any]:
        """Write the arrays (`kind/00012.name.npy`) and then the marker; returns what it says."""
        for name, array in arrays.items():
            np.save(self.own(f"{name}.npy"), array, allow_pickle=False)
        for suffix in ("parquet", "rejected.parquet", *(f"{name}.npy" for name in arrays)):
            fsync_path(self.own(suffix))
            self.own(suffix).replace(self.place.file(self.kind, self.number, suffix))
        marker = {"number": self.number, "funnel": self.funnel.to_json()}
        atomic_write_json(self.place.file(self.kind, self.number, "json"), marker)
        return marker


def count(funnel: Funnel, step: str, batch: DocumentBatch) -> None:
    """Count a batch in the row of a step, by source."""
    if not len(batch):
        return
    sizes = sizes_of(batch)
    names = batch.sources
    if len(set(names)) == 1:
        funnel.passed(step, names[0], int(sizes.sum()), len(batch))
        return
    for name, size in zip(names, sizes.tolist()):
        funnel.passed(step, name, size)


def done_before(place: Place, kind: str, number: int) -> dict[str, Any] | None:
    """The marker of a split that a pass did already."""
    marker = place.file(kind, number, "json")
    if not marker.is_file():
        return None
    found: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    return found


def rows_of(place: Place, kind: str, number: int) -> Iterator[tuple[int, DocumentBatch]]:
    """(number of the first row, batch) of what a pass left of a split, a few megabytes at a time."""
    at = 0
    for arrow in store.batches(place.file(kind, number)):
        yield at, DocumentBatch(arrow)
        at += arrow.num_rows


def sizes_of(batch: DocumentBatch) -> np.ndarray:
    """[N] int64 bytes of each text in UTF-8."""
    sizes: np.ndarray = pc.binary_length(batch.arrow.column("text")).to_numpy(zero_copy_only=False).astype(np.int64)
    return sizes
