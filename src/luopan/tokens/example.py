"""One document as tokens: what the encoders make and what packing and collation take.

A document is a run of tokens that attend to each other and to nothing else. Labels follow the Hugging Face
convention: aligned with `input_ids`, not shifted, `IGNORE` (-100) where nothing is to be learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

IGNORE = -100

Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Example:
    """A document of n tokens.

    `per_token` holds further values aligned with `input_ids` (say `old_logprobs`), `fields` one number for the whole
    document (say `pair`, `advantage`). Raises AssertionError where lengths disagree: only code of ours makes these.
    """

    input_ids: Ids
    labels: Ids
    per_token: Mapping[str, Sequence[float] | np.ndarray] = field(default_factory=dict)
    fields: Mapping[str, float | int | bool] = field(default_factory=dict)
    prefix: int = 0
    """Continues the first so many tokens of the nearest earlier document of its row that has no prefix itself."""

    def __post_init__(self) -> None:
        n = len(self.input_ids)
        assert n > 0, "a document without tokens"
        assert len(self.labels) == n, f"{len(self.labels)} labels for {n} tokens"
        for name, values in self.per_token.items():
            assert len(values) == n, f"{len(values)} values of {name} for {n} tokens"

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_trained(self) -> int:
        """How many tokens carry a label (the first token of a document never becomes a target)."""
        return int(np.count_nonzero(np.asarray(self.labels)[1:] != IGNORE))
