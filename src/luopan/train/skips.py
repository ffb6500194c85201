"""Which data each update reads after batches were skipped, and the record of what was left out.

Feeds are pure functions of the step. When a run goes back to a checkpoint because the loss ran away, the batches it has
read since are left out (PaLM, arXiv:2204.02311, section 5.1: the same batches did no harm from another starting point,
so leaving them out is what helps). From then on update and data step differ: `data_step(update)` says which one to ask
the feed for.

`rewinds.json` is written before training goes on, so a restart follows the same path; `skipped.jsonl` has one line per
update that was left out, for people. Rank 0 writes; every rank reads the map at the start and keeps it up to date by
the same calls.

Limits: going back costs the batches between the checkpoint and the failure. Remove the checkpoints made since
(`Saver.back_to`) before `rewind`: a kill between the two then repeats the failure and the decision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_json, atomic_write_text, mend_os_errors
from luopan.errors import ArtifactError
from luopan.train.ranks import rank
from luopan.train.spikes import Skipped
from luopan.train.tracking import finite, whole_lines

REWINDS_NAME, SKIPPED_NAME = "rewinds.json", "skipped.jsonl"


@dataclass(frozen=True)
class Rewind:
    """From update `update` on, the feed is asked for data step `update + offset`; `reason` is for people."""

    update: int
    offset: int
    reason: str
    documents: tuple[str, ...] = ()
    skipped: int = 0
    """Updates left out so far in the whole run, these included."""


BRANCHED = "branched"


class Skips:
    """The map from updates to data steps of the run in `folder`, and the record of updates that were left out."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / REWINDS_NAME
        self.log_path = Path(folder) / SKIPPED_NAME
        self.rewinds = read_rewinds(self.path)

    @property
    def count(self) -> int:
        """How often the run has gone back."""
        return sum(rewind.reason != BRANCHED for rewind in self.rewinds)

    def data_step(self, update: int) -> int:
        """The step to ask the feed for in update `update` (both count from 0)."""
        # A later rewind begins with data that was never read, so wherever it holds it overrules the earlier ones.
        for rewind in reversed(self.rewinds):
            if update >= rewind.update:
                return update + rewind.offset
        return update

    def skipped_before(self, update: int) -> int:
        """Updates that had been left out when the run went back to `update`; 0 if it never did."""
        return max((rewind.skipped for rewind in self.rewinds if rewind.update == update), default=0)

    def begin_at(self, update: int, offset: int) -> None:
        """The run begins with `update` as the branch of one that was `offset` data steps ahead of its updates."""
        self.rewinds = [Rewind(update, offset, BRANCHED)] if offset else []
        self.write()

    def rewind(
        self, from_update: int, to_update: int, reason: str, documents: Sequence[str] = (), skipped: int = 0
    ) -> None:
        """The run goes back from `to_update` updates to `from_update`: what was read between them is left out.

        Raises `ArtifactError` where that cannot be written down: training on would not be repeatable.
        """
        if not 0 <= from_update < to_update:
            raise ValueError(f"cannot go back from update {to_update} to update {from_update}")
        offset = self.data_step(to_update) - from_update
        self.rewinds = [*self.rewinds, Rewind(from_update, offset, reason, tuple(documents), skipped)]
        self.write()

    def write(self) -> None:
        """Onto the disk, before training goes on."""
        if rank() == 0 and (self.rewinds or self.path.exists()):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_json(self.path, [asdict(rewind) for rewind in self.rewinds])

    def begin(self, update: int) -> None:
        """Going on after `update` updates: lines about data that will be read again are dropped from the record."""
        if rank() != 0 or not self.log_path.exists():
            return
        first = self.data_step(update)
        lines = whole_lines(self.log_path)
        kept = [line for line in lines if json.loads(line).get("data_step", -1) < first]
        if kept != self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            atomic_write_text(self.log_path, "".join(line + "\n" for line in kept))

    def log(self, skipped: Skipped, documents: Sequence[str] = ()) -> None:
        """A line about an update that was left out, flushed to the disk; `documents` are the ids of its batch.

        Where it cannot be written (a full disk) the line is lost and not the run: the loop has said it aloud as well.
        """
        if rank() != 0:
            return
        line: dict[str, Any] = finite(asdict(skipped) | {"data_step": self.data_step(skipped.step)})
        line["documents"] = list(documents)
        with suppress(OSError):
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read_rewinds(path: Path) -> list[Rewind]:
    """The rewinds of a run; none where there is no file. ArtifactError for a file that was tampered with."""
    if not path.exists():
        return []
    try:
        with mend_os_errors(path):
            values = json.loads(path.read_text(encoding="utf-8"))
        return [
            Rewind(
                int(one["update"]),
                int(one["offset"]),
                str(one["reason"]),
                tuple(one["documents"]),
                int(one.get("skipped", 0)),
            )
            for one in values
        ]
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(
            "the record of skipped batches cannot be read",
            where=path,
            hint="Without it the run would read other data than before: put it back, or remove the stage's folder.",
        ) from None
