"""What a training is asked to call as it goes, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luopan.model.decoder import Decoder

# Called after each update with the number of updates done and the model; figures it returns are logged at once.
Hook = Callable[[int, Decoder], Mapping[str, float] | None]
OnLog = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class FitResult:
    """What a finished training did. `last` is its last line of metrics; seconds are those of all its sittings."""

    steps: int
    tokens: int
    seconds: float
    skipped_steps: int
    resumed_from: int | None
    last: dict[str, Any]
    notes: tuple[str, ...]
    peak_memory_bytes: int
    rewinds: int = 0
    expected_memory_bytes: int | None = None
