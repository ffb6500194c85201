"""Which checkpoints stay: the last few, every n-th, and the best by a metric; the rest goes when it is safe.

Nothing is removed before a newer checkpoint has been read back and found whole, nor, where checkpoints are uploaded,
before its own upload was verified. The scores that `keep_best` looks at are in `scores.json` beside the checkpoints.

Limits: a checkpoint is made before the figures of its step are (saving comes first), so the best one is known a moment
after it was written; until then it counts among the last. Reading back drops the file's pages from memory first, which
Linux does on request and other systems do not: there the check may see memory rather than disk.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from luopan.artifacts import atomic_write_json, verify
from luopan.train import checkpoint as checkpoints
from luopan.train.config import TrainConfig

SCORES_NAME = "scores.json"


class Retention:
    """Decides and removes. Its methods may be called from several threads."""

    def __init__(self, folder: Path, config: TrainConfig, may_go: Callable[[int], bool] = lambda step: True) -> None:
        """`may_go` says whether a checkpoint may be removed here, as far as uploads are concerned."""
        self.folder, self.config, self.may_go = Path(folder), config, may_go
        self.lock = threading.RLock()
        self.scores = read_scores(self.folder / SCORES_NAME)
        self.figures_seen: set[str] = set()

    def kept(self, steps: list[int]) -> set[int]:
        """Those of `steps` (oldest first) that stay."""
        config = self.config
        keep = set(steps[-config.save_total_limit :])
        if config.keep_every_steps is not None:
            keep |= {step for step in steps if step % config.keep_every_steps == 0}
        best = self.best(steps)
        return keep if best is None else keep | {best}

    def best(self, steps: list[int]) -> int | None:
        """The step with the best score (the earliest of equals); None without `keep_best` or before a score."""
        if self.config.best_metric is None:
            return None
        sign = -1.0 if self.config.best_metric[1] else 1.0
        scored = [step for step in steps if step in self.scores]
        return min(scored, key=lambda step: (sign * self.scores[step], step), default=None)

    def score(self, step: int, figures: Mapping[str, object]) -> None:
        """The figures of a step that has (or gets) a checkpoint; only the metric of `keep_best` is looked at."""
        if self.config.best_metric is None:
            return
        self.figures_seen |= set(figures)
        value = figures.get(self.config.best_metric[0])
        if not isinstance(value, int | float) or not math.isfinite(value):
            return
        with self.lock:
            self.scores[step] = float(value)
            self.write_scores()

    def missing_metric(self) -> str | None:
        """A warning if `keep_best` names a metric that no figure had in this run."""
        if self.config.best_metric is None or self.config.best_metric[0] in self.figures_seen or not self.figures_seen:
            return None
        names = ", ".join(sorted(self.figures_seen))
        return f"WARNING: keep_best names {self.config.best_metric[0]!r}, which was never measured. There are: {names}."

    def prune(self, sound: int) -> list[int]:
        """Remove what need not stay; returns the steps that went. `sound` has been read back and is whole.

        Newer ones than `sound` are left alone: they are not known to be whole.
        """
        with self.lock:
            steps = [step for step in checkpoints.steps_saved(self.folder) if step <= sound]
            if sound not in steps:
                return []
            keep = self.kept(steps)
            gone = [step for step in steps if step not in keep and self.may_go(step)]
            for step in gone:
                checkpoints.remove(self.folder, step)
                self.scores.pop(step, None)
            if gone:
                self.write_scores()
            return gone

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of more updates than `step`: the run goes back."""
        with self.lock:
            # The newest goes first: a kill in between must not leave a gap that looks like progress.
            for later in reversed([one for one in checkpoints.steps_saved(self.folder) if one > step]):
                checkpoints.remove(self.folder, later)
            self.scores = {one: value for one, value in self.scores.items() if one <= step}
            self.write_scores()

    def write_scores(self) -> None:
        """Keep the scores; a full disk must not stop training here either, they are then only in memory."""
        if self.config.best_metric is not None:
            with suppress(Exception):
                self.folder.mkdir(parents=True, exist_ok=True)
                atomic_write_json(self.folder / SCORES_NAME, self.scores)


def read_scores(path: Path) -> dict[int, float]:
    """The scores of earlier sittings; what cannot be read is measured again."""
    try:
        return {int(step): float(value) for step, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def read_back(path: Path) -> None:
    """Read a checkpoint again, from the disk where the system allows it; ArtifactError if its bytes have changed."""
    if hasattr(os, "posix_fadvise"):
        for file in (one for one in path.iterdir() if one.is_file()):
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    verify(path)
