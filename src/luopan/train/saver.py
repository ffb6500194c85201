"""Saves checkpoints beside the training: copy to host memory, then write, check, tidy up and upload in the background.

    saver.save(step, tensors, state)             the loop waits for the copy only
    saver.save(step, tensors, state, final=True) waits for the disk, and raises what went wrong
    saver.scored(step, line)                     the figures of that step, for keep_best
    saver.poll()                                 now and then: tells of a save that failed
    saver.close(patience)                        at the end

A save that is not the last may fail for want of room or rights: one line says so and training goes on, with the
checkpoints from before untouched. After each save the new checkpoint is read back; older ones go only if it is whole.

Every rank makes a Saver and calls it alike. With replicas rank 0 writes; with shards (`sharded`) all ranks write, in
the foreground, since collective operations of two threads would get in each other's way.

Limits: `async_save` needs room in host memory for a copy of weights and optimizer state while it writes; where there is
none it writes in the foreground. At most one save is under way: the next waits for it. The CUDA copy has not been run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luopan.errors import ArtifactError, DiskFullError, LuopanError
from luopan.train import checkpoint as checkpoints
from luopan.train.checkpoint import Note, Tensors
from luopan.train.config import TrainConfig
from luopan.train.ranks import gather_objects, rank
from luopan.train.retention import Retention, read_back
from luopan.train.upload import Uploader, make_uploader


class Saver:
    """See the module. `folder` is the one the checkpoints go to; `identity` says which run they belong to."""

    def __init__(self, folder: Path, config: TrainConfig, identity: str, note: Note, *, sharded: bool = False) -> None:
        self.folder, self.config, self.identity, self.note, self.sharded = Path(folder), config, identity, note, sharded
        self.uploader: Uploader | None = make_uploader(self.folder, config, note) if rank() == 0 else None
        may_go = self.uploader.verified if self.uploader else (lambda step: True)
        self.retention = Retention(self.folder, config, may_go)
        if self.uploader:
            self.uploader.on_verified = self.tidy
            self.uploader.start(checkpoints.steps_saved(self.folder))
        self.thread: threading.Thread | None = None
        self.failure: tuple[int, Exception] | None = None
        self.sound: int | None = None
        """The newest step that this saver has written and read back."""

    # ---- saving ----

    def save(self, step: int, tensors: Tensors, state: dict[str, Any], final: bool = False) -> None:
        """Save what is true now. `final`: return when it is on the disk, and raise `DiskFullError` or `ArtifactError`.

        A step that this saver has already written is not written again.
        """
        self.wait()
        if self.sharded:
            self.attempt(
                step, lambda: checkpoints.save_sharded(self.folder, step, tensors, state, identity=self.identity)
            )
        elif rank() == 0 and self.sound != step:
            copy = to_host(tensors) if self.config.async_save and not final else None
            self.begin(step, tensors if copy is None else copy, state, background=copy is not None)
        if final:
            self.finish(step)
        elif self.thread is None:
            self.poll()

    def begin(self, step: int, tensors: Tensors, state: dict[str, Any], *, background: bool) -> None:
        """Write by this process, here or in a thread."""

        def write() -> None:
            self.attempt(step, lambda: checkpoints.save(self.folder, step, tensors, state, identity=self.identity))

        if not background:
            write()
            return
        # No daemon: if the loop dies of an error, the interpreter still waits until the checkpoint is whole.
        self.thread = threading.Thread(target=write, name=f"luopan-save-{step}")
        self.thread.start()

    def attempt(self, step: int, write: Callable[[], Path]) -> None:
        """Write, read back, remove what is no longer needed, pass on to the upload; keep the error if there is one."""
        try:
            path = write()
            if rank() == 0:
                self.settle(step, path)
            self.sound = step
        except Exception as error:
            self.failure = (step, error)

    def settle(self, step: int, path: Path) -> None:
        """The new checkpoint is in its place: is it whole? Then the older ones may go."""
        try:
            read_back(path)
        except ArtifactError:
            checkpoints.remove(self.folder, step)
            raise
        self.sound = step
        if self.uploader:
            self.uploader.add(step)
        self.retention.prune(step)

    def finish(self, step: int) -> None:
        """Every rank learns whether the last save worked."""
        error = self.failure[1] if self.failure else None
        self.failure = None
        error = next((one for one in gather_objects(portable(error)) if one is not None), None)
        if error is not None:
            raise error

    # ---- between saves ----

    def wait(self) -> None:
        """Until the save under way is over; then as `poll`."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.poll()

    def poll(self) -> None:
        """Tell of a save that failed since: one line if training can go on without it, else the error is raised."""
        if self.thread is not None and self.thread.is_alive():
            return
        failure, self.failure = self.failure, None
        if failure is None:
            return
        step, error = failure
        if not isinstance(error, ArtifactError | OSError):
            raise error
        self.note(failure_text(step, error, self.sound or newest(self.folder)))

    def scored(self, step: int, figures: Mapping[str, object]) -> None:
        """The figures of `step`, if it is one that is saved; what is no longer among the best goes."""
        if rank() != 0 or self.config.keep_best is None:
            return
        under_way = self.thread is not None and step % self.config.save_steps == 0
        if under_way or step in checkpoints.steps_saved(self.folder):
            self.retention.score(step, figures)
            self.tidy()

    def tidy(self) -> None:
        """Remove what need not stay (also called by the uploader, from its thread)."""
        if self.sound is not None:
            self.retention.prune(self.sound)

    def back_to(self, step: int) -> None:
        """The run goes back to the checkpoint after `step` updates: those made since are removed."""
        self.wait()
        if rank() == 0:
            self.retention.forget_after(step)
        self.sound = None

    def close(self, patience: float = 0.0, hurried: Callable[[], bool] = lambda: False) -> None:
        """The end: wait for the save under way, and up to `patience` seconds for uploads, or until `hurried` says so;
        tell of what is left."""
        self.wait()
        if rank() != 0:
            return
        warning = self.retention.missing_metric()
        if warning:
            self.note(warning)
        if self.uploader:
            self.uploader.close(patience, hurried)


def to_host(tensors: Tensors) -> Tensors | None:
    """Copies in host memory that training cannot change any more; None where there is no room for them."""
    try:
        copies = copied(tensors)
    except (MemoryError, RuntimeError):  # torch's allocators raise RuntimeError
        return None
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()  # all copies were queued; wait once
    return copies


def copied(tensors: Tensors) -> Tensors:
    """The same nesting with a copy of every tensor; from a GPU into pinned memory, without waiting."""
    copies: Tensors = {}
    for name, value in tensors.items():
        if isinstance(value, Tensor):
            if value.device.type == "cuda":
                pinned = torch.empty_like(value, device="cpu", pin_memory=True)
                copies[name] = pinned.copy_(value.detach(), non_blocking=True)
            else:
                copies[name] = value.detach().clone()
        else:
            copies[name] = copied(value) if isinstance(value, dict) else value
    return copies


def newest(folder: Path) -> int | None:
    """The newest checkpoint in the folder."""
    return max(checkpoints.steps_saved(folder), default=None)


def failure_text(step: int, error: Exception, last: int | None) -> str:
    """One line about a save that failed."""
    why = error.message if isinstance(error, LuopanError) else str(error)
    what = "free some space" if isinstance(error, DiskFullError) else "mend it before the next save"
    left = f"the newest checkpoint is that of step {last}" if last is not None else "there is no checkpoint yet"
    return f"WARNING: step {step} could not be saved: {why}. Training goes on; {left}. Please {what}."


def portable(error: Exception | None) -> Exception | None:
    """The error as it can travel to other ranks: without what it was caused by, which may not be picklable."""
    if error is None or isinstance(error, LuopanError | OSError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
