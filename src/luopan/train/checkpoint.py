"""Checkpoints that are whole or not there: saved aside, flushed, checksummed, renamed; verified before they are loaded.

`folder/step-000123/` holds the tensors (torch.distributed.checkpoint), `state.json` (position, random generators, the
figures not logged yet) and `manifest.json` with a SHA-256 per file: torch's format loads flipped bytes without a word.
One that fails the check is set aside and the one before it is used, and the user is told. When to save and what to keep
is decided in `saver.py` and `retention.py`.

Two ways to write, one format: `save` in one process that has every tensor whole, and `save_sharded`, which every rank
calls with its part (DTensors); rank 0 makes the manifest and renames. `load` reads either into plain tensors or into
the shards of another number of ranks.

Limits: all ranks share the file system. torch's `.metadata` file is a pickle: load checkpoints that you wrote, and use
the model folder (safetensors) to pass weights on. Rank 0 alone takes the checksums of every rank's file.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from luopan.artifacts.files import mended_os_error, nearest_existing
from luopan.errors import ArtifactError
from luopan.train.ranks import gather_objects, rank

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


def save(folder: Path, step: int, tensors: Tensors, state: dict[str, Any], *, identity: str) -> Path:
    """Write a checkpoint by this process alone; it is in its place and flushed when this returns.

    Raises `DiskFullError` or `ArtifactError`; the checkpoints from before are then untouched and nothing half written
    is left. `state` must be JSON; `identity` says which run it belongs to.
    """
    final = checkpoint_path(folder, step)
    partial = partial_path(final)
    try:
        with mend_checkpoint_errors(final):
            make_partial(partial, tensor_bytes(tensors))
            write_tensors(partial, tensors)
            seal(partial, final, step, state, identity)
    except BaseException:
        discard(partial)
        raise
    return final


def save_sharded(folder: Path, step: int, tensors: Tensors, state: dict[str, Any], *, identity: str) -> Path:
    """As `save`, called by every rank at the same time: each writes its shards into the one partial folder.

    An error of any rank is raised on all of them, and the partial folder is gone. Only rank 0's `state` is written.
    """
    final = checkpoint_path(folder, step)
    partial = partial_path(final)
    size = sum(gather_objects(tensor_bytes(tensors)))
    try:
        together(lambda: make_partial(partial, size), final)
        with mend_checkpoint_errors(final):
            write_tensors(partial, tensors, sharded=True)  # torch raises on every rank what happened on one
        together(lambda: seal(partial, final, step, state, identity), final)
    except BaseException:
        if rank() == 0:
            discard(partial)
        raise
    return final


def together(work: Callable[[], None], path: Path) -> None:
    """Rank 0 does it, the others wait; its error is everybody's."""
    error: Exception | None = None
    if rank() == 0:
        try:
            with mend_checkpoint_errors(path):
                work()
        except Exception as caught:
            error = caught
    error = gather_objects(error)[0]
    if error is not None:
        raise error


def make_partial(partial: Path, size: int) -> None:
    """An empty folder to write into; DiskFullError where `size` bytes will not fit."""
    discard(partial)
    partial.mkdir(parents=True)
    ensure_free_space(partial, size + 2**20)


def seal(partial: Path, final: Path, step: int, state: dict[str, Any], identity: str) -> None:
    """Add state and manifest, flush everything, put it in its place."""
    atomic_write_json(partial / STATE_NAME, {"step": step, "identity": identity, **state})
    manifest = build_manifest(partial, kind="checkpoint", name=final.name, identity=identity, unlisted=())
    write_manifest(partial, manifest)
    replace_folder(partial, final)


def newest_sound(folder: Path, *, identity: str, note: Note, before: int | None = None) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as it was written; None where there is none.

    `before`: only those of fewer updates, for going back.
    A damaged one is renamed to `damaged-step-…` and reported through `note`. One that belongs to another run (its
    identity differs) is an `ArtifactError`: going on from it would mix two runs.
    """
    for step in reversed(steps_saved(folder)):
        if before is not None and step >= before:
            continue
        path = checkpoint_path(folder, step)
        try:
            manifest = verify(path)
            state = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
            # The manifest vouches for every file but itself.
            if state.pop("identity", None) != manifest.identity:
                raise ArtifactError("manifest and state name different runs", where=path)
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


def load(checkpoint: Checkpoint, tensors: Tensors, *, sharded: bool = False) -> None:
    """Read a checkpoint's tensors into `tensors`, in place (names, shapes and dtypes must be those that were saved).

    `sharded`: `tensors` holds DTensors, and every rank calls it. Whether it was saved in shards does not matter.
    """
    import torch.distributed.checkpoint as dcp

    quiet()
    with mend_checkpoint_errors(checkpoint.path):
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(checkpoint.path), no_dist=not sharded)


def write_tensors(folder: Path, tensors: Tensors, *, sharded: bool = False) -> None:
    """The tensors as torch.distributed.checkpoint files.

    One process leaves flushing to `replace_folder`; with shards each rank flushes its own, since another machine's
    rank 0 cannot.
    """
    import torch.distributed.checkpoint as dcp

    quiet()
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder, sync_files=sharded), no_dist=not sharded)


def partial_path(final: Path) -> Path:
    """Where a checkpoint is written before it is renamed."""
    return final.with_name(f".{final.name}.partial")


def remove(folder: Path, step: int) -> None:
    """Remove a checkpoint. It is renamed first: a kill in the middle must not leave half of one under its name."""
    path = checkpoint_path(folder, step)
    going = path.with_name(f".{path.name}.removed")
    discard(going)
    with suppress(FileNotFoundError), mend_os_errors(path):
        path.rename(going)
    discard(going)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    if Path(folder).is_dir():
        for pattern in (".step-*.partial", ".step-*.removed"):
            for path in Path(folder).glob(pattern):
                discard(path)


def discard(path: Path) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def tensor_bytes(tensors: Tensors) -> int:
    """How many bytes the tensors of a nested mapping hold; of a DTensor, this rank's shard."""
    size = 0
    for value in tensors.values():
        if isinstance(value, Tensor):
            local = value.to_local() if hasattr(value, "to_local") else value
            size += local.numel() * local.element_size()
        elif isinstance(value, dict):
            size += tensor_bytes(value)
    return size


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
            mended = mended_os_error(cause, path) or full_after_all(cause, path)
            if mended is not None:
                raise mended from error
        raise ArtifactError(
            f"the checkpoint could not be written or read: {'; '.join(str(cause) for cause in causes)}", where=path
        ) from error


def full_after_all(error: BaseException, path: Path) -> ArtifactError | None:
    """torch's zip writer reports a full disk as "unexpected pos 704 vs 598": believe that where nothing is free."""
    if "inline_container" in str(error) and shutil.disk_usage(nearest_existing(path)).free < 2**20:
        return mended_os_error(OSError(errno.ENOSPC, "No space left on device"), path)
    return None


def quiet() -> None:
    """torch warns that a single process saves without torch.distributed, which is what we want here.

    No `catch_warnings`: it puts the filters of the whole process back when it ends, and saves end in another thread.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
