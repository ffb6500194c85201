"""Checkpoints that are whole or not there: saved aside, flushed, checksummed, renamed; verified before they are loaded.

`folder/step-000123/` holds the tensors (torch.distributed.checkpoint), `state.json` (position, random generators, the
figures not logged yet) and `manifest.json` with a SHA-256 per file: torch's format loads flipped bytes without a word.
One that fails the check is set aside and the one before it is used, and the user is told.

Limits: rank 0 writes and every rank reads the whole of it, on a file system they share. torch's `.metadata` file is a
pickle: load checkpoints that you wrote, and use the model folder (safetensors) to pass weights on.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from luopan.artifacts import (
    atomic_write_json,
    build_manifest,
    ensure_free_space,
    mend_os_errors,
    replace_folder,
    verify,
    write_manifest,
)
from luopan.artifacts.files import mended_os_error
from luopan.errors import ArtifactError

STATE_NAME = "state.json"
Tensors = dict[str, Any]  # nested by name, tensors at the leaves
Note = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has passed its check. `step` updates are in it; `state` is what `save` was given."""

    path: Path
    step: int
    state: dict[str, Any]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lives."""
    return Path(folder) / f"step-{step:06d}"


def steps_saved(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, oldest first, whether sound or not."""
    if not Path(folder).is_dir():
        return []
    found = (re.fullmatch(r"step-(\d{6,})", path.name) for path in Path(folder).iterdir())
    return sorted(int(match[1]) for match in found if match)


def save(folder: Path, step: int, tensors: Tensors, state: dict[str, Any], *, identity: str, keep: int) -> Path:
    """Write a checkpoint, and only when it is in its place and flushed remove all but the newest `keep`.

    Raises `DiskFullError` or `ArtifactError`; the checkpoints from before are then untouched and nothing half written
    is left. `state` must be JSON; `identity` says which run it belongs to.
    """
    final = checkpoint_path(folder, step)
    partial = final.with_name(f".{final.name}.partial")
    try:
        with mend_checkpoint_errors(final):
            discard(partial)
            partial.mkdir(parents=True)
            ensure_free_space(partial, tensor_bytes(tensors) + 2**20)
            write_tensors(partial, tensors)
            atomic_write_json(partial / STATE_NAME, {"step": step, **state})
            manifest = build_manifest(partial, kind="checkpoint", name=final.name, identity=identity, unlisted=())
            write_manifest(partial, manifest)
            replace_folder(partial, final)
    except BaseException:
        discard(partial)
        raise
    for old in steps_saved(folder)[:-keep]:
        discard(checkpoint_path(folder, old))
    return final


def newest_sound(folder: Path, *, identity: str, note: Note) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as it was written; None where there is none.

    A damaged one is renamed to `damaged-step-…` and reported through `note`. One that belongs to another run (its
    identity differs) is an `ArtifactError`: going on from it would mix two runs.
    """
    for step in reversed(steps_saved(folder)):
        path = checkpoint_path(folder, step)
        try:
            manifest = verify(path)
            state = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
        except (ArtifactError, OSError, ValueError) as error:
            set_aside(path, error, note)
            continue
        if manifest.identity != identity:
            raise ArtifactError(
                "this checkpoint belongs to a run with other settings, seed or model shape",
                where=path,
                hint="Remove the folder to start anew, or go back to the settings it was made with.",
            )
        return Checkpoint(path, step, state)
    return None


def set_aside(path: Path, error: Exception, note: Note) -> None:
    """Take a damaged checkpoint out of the row and say so."""
    reason = error.message if isinstance(error, ArtifactError) else str(error)
    note(f"WARNING: checkpoint {path.name} is damaged and is not used: {reason}")
    damaged = path.with_name(f"damaged-{path.name}")
    with mend_os_errors(path):
        discard(damaged)
        path.rename(damaged)


def load(checkpoint: Checkpoint, tensors: Tensors) -> None:
    """Read a checkpoint's tensors into `tensors`, in place (names, shapes and dtypes must be those that were saved)."""
    import torch.distributed.checkpoint as dcp

    with mend_checkpoint_errors(checkpoint.path), quiet():
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(checkpoint.path), no_dist=True)


def write_tensors(folder: Path, tensors: Tensors) -> None:
    """The tensors as torch.distributed.checkpoint files. Flushing to the disk is left to `replace_folder`."""
    import torch.distributed.checkpoint as dcp

    with quiet():
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder, sync_files=False), no_dist=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written."""
    if Path(folder).is_dir():
        for path in Path(folder).glob(".step-*.partial"):
            discard(path)


def discard(path: Path) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def tensor_bytes(tensors: Tensors) -> int:
    """How many bytes the tensors of a nested mapping hold."""
    sizes = (
        value.numel() * value.element_size() if isinstance(value, Tensor) else tensor_bytes(value)
        for value in tensors.values()
    )
    return sum(sizes)


@contextmanager
def mend_checkpoint_errors(path: Path) -> Iterator[None]:
    """As `mend_os_errors`, and through torch's CheckpointException too, which is no `Exception` and hides the cause."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with mend_os_errors(path):
            yield
    except CheckpointException as error:
        causes = [failure[0] for failure in error.failures.values()]
        for cause in causes:
            mended = mended_os_error(cause, path)
            if mended is not None:
                raise mended from error
        raise ArtifactError(
            f"the checkpoint could not be written or read: {'; '.join(str(cause) for cause in causes)}", where=path
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """torch warns that a single process saves without torch.distributed, which is what we want here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.distributed.*")
        yield
