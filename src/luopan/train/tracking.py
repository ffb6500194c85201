"""Where a run's figures go: always `metrics.jsonl`, and TensorBoard, trackio or wandb where the user asks for it.

One JSON object per line, with the step in it. On resume the file is cut back to the checkpoint's step, so no step is
in it twice. Figures that are not numbers become null (JSON has no NaN). Only rank 0 writes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from luopan.artifacts import atomic_write_text, mend_os_errors
from luopan.errors import TrainingError

METRICS_NAME = "metrics.jsonl"


class Writer(Protocol):
    """A place that figures are sent to beside metrics.jsonl."""

    def log(self, step: int, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Appends lines to `folder/metrics.jsonl` and passes them on to the writers of `report_to`.

    Nothing here stops a training: a writer that fails is told of once and left out from then on; lines that a full disk
    does not take are kept and written as soon as it does. Only `close` raises, where lines are still not written.
    """

    def __init__(
        self,
        folder: Path,
        report_to: Sequence[str] = (),
        settings: dict[str, Any] | None = None,
        note: Callable[[str], None] = print,
    ) -> None:
        self.path = Path(folder) / METRICS_NAME
        self.report_to, self.settings, self.note = tuple(report_to), settings or {}, note
        self.writers: dict[str, Writer] = {}
        self.waiting: list[str] = []
        self.told = False

    def begin(self, step: int) -> None:
        """Go on after `step`: lines of later steps, and one that was not finished, are dropped; writers are opened."""
        self.cut_back(step)
        for name in self.report_to:
            try:
                self.writers[name] = make_writer(name, self.path.parent, self.settings, step)
            except TrainingError:
                raise
            except Exception as error:
                self.note(f"WARNING: {name} could not be opened, figures do not go there: {first_line(error)}")

    def cut_back(self, step: int) -> None:
        """Drop the lines of later steps: the run goes back to `step`. Writers elsewhere keep theirs."""
        self.waiting = [text for text in self.waiting if json.loads(text)["step"] <= step]
        if self.path.exists():
            kept = [line for line in whole_lines(self.path) if json.loads(line)["step"] <= step]
            atomic_write_text(self.path, "".join(line + "\n" for line in kept))

    def write(self, line: dict[str, Any]) -> None:
        """One line; it has reached the system, not yet the disk, when this returns."""
        self.waiting.append(json.dumps(finite(line), ensure_ascii=False))
        self.flush()
        figures = {name: float(value) for name, value in line.items() if isinstance(value, (int, float))}
        for name, writer in list(self.writers.items()):
            try:
                writer.log(int(line["step"]), figures)
            except Exception as error:
                del self.writers[name]
                self.note(f"WARNING: {name} failed and gets no more figures: {first_line(error)}")

    def flush(self) -> None:
        """Append what waits; a line is there whole or not at all."""
        data = "".join(text + "\n" for text in self.waiting).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_whole(self.path, data)
        except OSError as error:
            if not self.told:
                self.note(
                    f"WARNING: {self.path} cannot be written ({error.strerror}); its lines are kept until it can."
                )
            self.told = True
            return
        self.waiting, self.told = [], False

    def sync(self) -> None:
        """Flush to the disk: called before a checkpoint, which must never know more steps than this file."""
        if self.waiting:
            self.flush()
        if self.path.exists():
            with suppress(OSError), open(self.path, "ab") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Close the writers. DiskFullError or ArtifactError where lines are still not written."""
        for name, writer in self.writers.items():
            try:
                writer.close()
            except Exception as error:
                self.note(f"WARNING: {name} could not be closed: {first_line(error)}")
        if self.waiting:
            with mend_os_errors(self.path):
                append_whole(self.path, "".join(text + "\n" for text in self.waiting).encode())
            self.waiting = []


def append_whole(path: Path, data: bytes) -> None:
    """Append `data` to a file; on an error (a full disk) the file is as it was before."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            written = file.write(data)
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)
            raise


def first_line(error: BaseException) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def whole_lines(path: Path) -> list[str]:
    """The lines of a JSONL file that are whole, valid objects with a step; reading stops at the first that is not."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            break
        found.append(line)
    return found


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `folder/metrics.jsonl` in order; empty where there is none."""
    path = Path(folder) / METRICS_NAME
    return [json.loads(line) for line in whole_lines(path)] if path.exists() else []


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """The line with null for what is not a number."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()
    }


def make_writer(name: str, folder: Path, settings: dict[str, Any], step: int) -> Writer:
    """The writer called `name`; its package is imported here. TrainingError if it is not installed."""
    makers: dict[str, Callable[..., Writer]] = {
        "tensorboard": TensorBoardWriter,
        "trackio": RunWriter,
        "wandb": RunWriter,
    }
    try:
        return makers[name](name, folder, settings, step)
    except ImportError:
        raise not_installed(name, folder) from None


def not_installed(name: str, where: Path | None = None) -> TrainingError:
    """The error for a package of `report_to` that is missing."""
    return TrainingError(
        f"report_to names {name}, which is not installed",
        where=where,
        hint=f"pip install {name}, or take it out of report_to; metrics.jsonl is written in any case.",
    )


class TensorBoardWriter:
    """Event files in `folder/tensorboard`; after a resume, points of later steps are taken off the chart."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / name), purge_step=step + 1)

    def log(self, step: int, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            if key != "step":
                self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class RunWriter:
    """trackio and wandb, which share one interface. The run is named after the two folders (recipe and stage)."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], step: int) -> None:
        self.module = __import__(name)
        stage = folder.name.removesuffix(".partial")
        self.module.init(project="luopan", name=f"{folder.parent.name}-{stage}", config=settings)

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.module.log({key: value for key, value in figures.items() if key != "step"}, step=step)

    def close(self) -> None:
        self.module.finish()
