"""Ctrl-C and SIGTERM as a wish to stop after this step, rather than in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """Set once the user, or the system's scheduler, has asked the run to stop."""

    def __init__(self) -> None:
        self.name: str | None = None

    @property
    def wished(self) -> bool:
        return self.name is not None


@contextmanager
def stop_on_signal(note: Callable[[str], None]) -> Iterator[StopWish]:
    """While inside, the first SIGINT or SIGTERM only sets the wish; a second Ctrl-C stops at once.

    Outside the main thread signals cannot be caught: the wish then stays unset. An ignored SIGINT stays ignored (a
    shell does that to what it starts in the background).
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if wish.wished and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.name = signal.Signals(number).name
        note("Stopping: this step is finished and saved first (Ctrl-C again stops at once, without saving).")

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, old in previous.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield wish
    finally:
        for number, old in previous.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
