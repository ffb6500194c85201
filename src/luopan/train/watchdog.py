"""Notices a step that does not end: writes the stacks of all threads to a file, and if asked ends the process.

    with Watchdog(folder, config, note) as dog:
        while …:
            dog.beat()                 each step
            with dog.paused(): …       where long silence is right: evaluation, the last save

A thread looks every few seconds. Nothing heard for `stuck_after_seconds`: one line, and `folder/stacks.txt` gets the
time and the Python stack of every thread, which tells a waiting loader from a waiting collective operation. Once per
standstill. `stuck_action: abort` then ends the process with code 74 (EX_IOERR of sysexits.h), without saving: what is
stuck may hold any lock. A supervisor (`luopan run --supervise`, torchrun) starts it again from the last checkpoint.

Limits: the watching thread is Python's: a call into C that never releases the interpreter stops it as well. The first
step may compile for minutes; `stuck_after_seconds` has to leave room for that.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from luopan.train.config import TrainConfig

STACKS_NAME = "stacks.txt"
STUCK_CODE = 74


class Watchdog:
    """See the module. `clock`, `leave` and `interval` are for tests."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        note: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], object] = os._exit,
        interval: float | None = None,
    ) -> None:
        self.path, self.note, self.clock, self.leave = Path(folder) / STACKS_NAME, note, clock, leave
        self.limit, self.aborts = config.stuck_after_seconds, config.stuck_action == "abort"
        self.interval = interval if interval is not None else min(5.0, (self.limit or 5.0) / 4)
        self.heard = clock()
        self.pauses = 0
        self.told = False
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self.limit is not None:
            self.heard = self.clock()
            self.thread = threading.Thread(target=self.watch, name="luopan-watchdog", daemon=True)
            self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join(10.0)

    def beat(self) -> None:
        """The loop is alive."""
        self.heard, self.told = self.clock(), False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, silence is no standstill."""
        self.pauses += 1
        try:
            yield
        finally:
            self.beat()
            self.pauses -= 1

    # ---- the thread ----

    def watch(self) -> None:
        """Look until the training is over."""
        while not self.over.wait(self.interval):
            self.look()

    def look(self) -> None:
        """Tell of a standstill, once."""
        silence = self.clock() - self.heard
        if self.limit is None or self.pauses or self.told or silence < self.limit:
            return
        self.told = True
        self.write_stacks(silence)
        what = "The process ends now" if self.aborts else "Training waits on; Ctrl-C ends it"
        with suppress(Exception):  # whatever shows notes may be what is stuck
            self.note(
                f"WARNING: no step has ended for {silence:.0f} s. Where each thread is: {self.path}. {what}; if "
                "steps do take so long, raise stuck_after_seconds."
            )
        if self.aborts:
            self.leave(STUCK_CODE)

    def write_stacks(self, silence: float) -> None:
        """Append the stacks of all threads; a full disk must not hinder the rest."""
        with suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}: no step has ended for {silence:.0f} s\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            file.write("\n")
