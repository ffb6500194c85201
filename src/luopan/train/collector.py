"""Python's garbage collector, kept out of the training steps.

It stops the program at moments of its own choosing to look through every object, of which torch alone makes hundreds of
thousands; in a run over several ranks the others wait each time. Here it runs when it is told to: what was there at the
start is never looked at again, and cycles made since are collected between steps, not more often than every
`SECONDS_BETWEEN` seconds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_BETWEEN = 60.0


class Collector:
    """Collects when asked, if enough time has passed."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def collect(self) -> bool:
        """Between two steps: collect if the last time is long enough ago. True if it was done."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN:
            return False
        gc.collect()
        self.last = now
        return True


@contextmanager
def collection_between_steps() -> Iterator[Collector]:
    """While inside, nothing is collected but by `Collector.collect`; afterwards all is as it was."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield Collector()
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
