"""Where a training stands: steps, tokens, seconds, and the figures since the last line of metrics.

It is in every checkpoint, so that the next line after a resume is the one that an uninterrupted run would have written.
What is counted per rank is added up when a line or a checkpoint is made; every rank must call these.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from luopan.train.ranks import gather_objects, rank
from luopan.train.step import Update
from luopan.train.window import Window, means


@dataclass
class Account:
    """See the module. `last` is the last line of metrics, `norm` the last gradient norm."""

    step: int = 0  # updates done
    seconds: float = 0.0  # of all sittings, up to `since`
    since: float = field(default_factory=time.perf_counter)
    tokens: int = 0  # that this rank has read (rank 0: and all ranks in earlier sittings)
    window_tokens: int = 0  # since the last line, this rank
    window_seconds: float = 0.0  # since the last line, saving left out
    norm: float | Tensor = float("nan")
    last: dict[str, Any] = field(default_factory=dict)
    window: Window = field(default_factory=Window)

    def add(self, update: Update, tokens: int, seconds: float) -> None:
        """One update over so many tokens of this rank, in so many seconds."""
        self.step += 1
        self.tokens += tokens
        self.window_tokens += tokens
        self.window_seconds += seconds
        self.norm = update.norm
        self.window.add(update.bad, update.metrics)

    def elapsed(self) -> float:
        """Seconds of this and all earlier sittings."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        return self.seconds

    def line(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The figures since the last line, with those that are given; a new window begins."""
        averages = means(self.window.over_ranks())
        window_tokens, tokens = (sum(part) for part in zip(*gather_objects((self.window_tokens, self.tokens))))
        self.last = {
            "step": self.step,
            "loss": averages.pop("loss", float("nan")),
            "grad_norm": float(self.norm),
            "tokens": tokens,
            "tokens_per_second": window_tokens / self.window_seconds if self.window_seconds else 0.0,
            "seconds": self.elapsed(),
            **averages,
            **figures,
        }
        self.window.clear()
        self.window_tokens, self.window_seconds = 0, 0.0
        return self.last

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        shared = gather_objects((self.tokens, self.window_tokens))
        return {
            "seconds": self.elapsed(),
            "tokens": sum(part[0] for part in shared),
            "window_tokens": sum(part[1] for part in shared),
            "window_seconds": self.window_seconds,
            "window": self.window.over_ranks(),
            "grad_norm": float(self.norm),
            "last": self.last,
        }

    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        """Everything as it was when `step` updates were done; rank 0 takes what was counted over all ranks."""
        self.step = step
        self.seconds, self.since = state["seconds"], time.perf_counter()
        self.tokens = state["tokens"] if rank() == 0 else 0
        self.window_tokens = state["window_tokens"] if rank() == 0 else 0
        self.window_seconds, self.norm, self.last = state["window_seconds"], state["grad_norm"], state["last"]
        self.window.restore(state["window"])
