"""Where the loop gets its batches: from the feed, one step ahead in a thread of its own where the feed allows it.

A feed that says `prefetchable = True` is a function of the step alone, so the next step's batches can be made while
this one computes; on CUDA they are laid into pinned memory, from where the copy to the device runs beside the
computation. A feed that reads the weights (on-policy) must not be asked early and does not say so. All calls to a
prefetched feed come from one thread. Limit: pinned memory has not been tried on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from luopan.tokens.batch import Batch


class Feed(Protocol):
    """Where batches come from: a pure function of (seed, step) and, on policy, of the weights. It has no state.

    Four things are optional: `prefetchable = True` says that it does not read the weights, `reads_weights = True` that
    it computes with them (time in it is then no waiting for data), `idle` that the step that was asked for last has
    nothing to learn from and must change no weight, and `describe(step) -> Sequence[str]` names the documents in all
    ranks' rows of a step.
    """

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of data step `step` (0 is the first): this rank's share of the step's rows."""
        ...


class Source:
    """A feed, read ahead where that is possible. Close it when the training is over."""

    def __init__(self, feed: Feed, device: torch.device, *, ahead: bool) -> None:
        self.feed, self.device = feed, device
        self.seconds = 0.0
        """Time that `get` has waited since it was set to 0."""
        self.pool = ThreadPoolExecutor(1, "luopan-feed") if ahead and getattr(feed, "prefetchable", False) else None
        self.coming: tuple[int, Future[list[Batch]]] | None = None

    def get(self, step: int, following: int | None) -> list[Batch]:
        """The batches of `step`; those of `following` are begun, if it is given."""
        began = time.perf_counter()
        if self.pool is None:
            batches = self.make(step)
        else:
            if self.coming is None or self.coming[0] != step:
                self.coming = (step, self.pool.submit(self.make, step))
            batches = self.coming[1].result()
            self.coming = None if following is None else (following, self.pool.submit(self.make, following))
        self.seconds += time.perf_counter() - began
        return batches

    def make(self, step: int) -> list[Batch]:
        """Ask the feed; on CUDA, into pinned memory."""
        batches = list(self.feed.micro_batches(step))
        return [batch.pin_memory() for batch in batches] if self.device.type == "cuda" else batches

    def describe(self, step: int) -> list[str]:
        """The ids of the step's documents; empty where the feed does not say."""
        describe: Any = getattr(self.feed, "describe", None)
        if describe is None:
            return []
        return list(describe(step) if self.pool is None else self.pool.submit(describe, step).result())

    def close(self) -> None:
        """Let the thread end; what it was making is thrown away."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
