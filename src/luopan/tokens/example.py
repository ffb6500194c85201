"""One document as tokens: what the encoders make and what packing and collation take.

A document is a run of tokens that attend to each other and to nothing else, unless it continues the beginning of
another (`Example.prefix`), so that a prompt with several answers stands in its row once. Labels follow the Hugging Face
convention: aligned with `input_ids`, not shifted, `IGNORE` (-100) where nothing is to be learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
        """How many tokens carry a label.

        The first token of a document never becomes a target, but for what follows a shared prompt.
        """
        return int(np.count_nonzero(np.asarray(self.labels)[0 if self.prefix else 1 :] != IGNORE))


def share_prefix(documents: Sequence[Example]) -> list[Example]:
    """The same documents for one row, in order, each after the first without what it has in common with a trunk.

    For the answers to one prompt, each with its prompt. What is shared is the run of equal tokens at the beginning, up
    to the first trained token of either, so that no loss is counted once for two; at least one token remains. A
    document that shares nothing stays whole, and is the trunk of those that follow.
    """
    row: list[Example] = []
    trunk: Example | None = None
    for document in documents:
        assert document.prefix == 0, "the document shares a prefix already"
        shared = 0 if trunk is None else _common_prompt(trunk, document)
        if not shared:
            trunk = document
            row.append(document)
            continue
        row.append(
            replace(
                document,
                input_ids=document.input_ids[shared:],
                labels=document.labels[shared:],
                per_token={name: values[shared:] for name, values in document.per_token.items()},
                prefix=shared,
            )
        )
    return row


def _common_prompt(trunk: Example, other: Example) -> int:
    most = min(_first_trained(trunk), _first_trained(other), len(other) - 1)
    differ = np.flatnonzero(np.asarray(trunk.input_ids)[:most] != np.asarray(other.input_ids)[:most])
    return int(differ[0]) if differ.size else most


def _first_trained(document: Example) -> int:
    """Place of the first trained token (never the first of all), or the number of tokens."""
    trained = np.flatnonzero(np.asarray(document.labels)[1:] != IGNORE)
    return int(trained[0]) + 1 if trained.size else len(document)
