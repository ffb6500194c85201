"""Batches: rows of documents laid end to end, as tensors.

Every objective reads the same `Batch`. Which token may learn and which token sees which follows from positions and
document numbers alone; token ids are never compared with pad or end-of-text, so a pad token that is also the stop
token cannot be masked away by accident.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from luopan.errors import DataError
from luopan.model.attention import Layout
from luopan.tokens.example import IGNORE, Example

Doc = Example

PADDING = -1  # document id of positions that hold nothing


class Targets(NamedTuple):
    """The trained tokens of a batch, as flat positions b*T+t."""

    sources: Tensor  # [N] what each is predicted from: its predecessor's position
    ids: Tensor  # [N] which token it is
    places: Tensor  # [N] its own position


class Once(NamedTuple):
    """Documents that have tokens in common: the N trained ones, and which of them are one and the same, U in all."""

    targets: Targets  # sources are positions of what is computed, places those of the documents
    first: Tensor  # [U] the first of each among the N
    of: Tensor  # [N] which of the U each is

    def to(self, device: torch.device | str) -> Once:
        """On `device`."""
        targets, *rest = self
        moved = Targets(*(part.to(device, non_blocking=True) for part in targets))
        return Once(moved, *(part.to(device, non_blocking=True) for part in rest))


@dataclass(frozen=True)
class Batch:
    """B rows of T positions holding D documents.

    `labels` are aligned with `input_ids` (not shifted), -100 where nothing is learned. `document_ids` count through the
    whole batch (0..D-1, -1 = padding), `position_ids` restart at each document, or go on from the shared prompt
    (`luopan.model.branches`). `per_token` values are [B, T] and aligned with `input_ids`, `per_document` values [D].

    Where `once` is known (`luopan.tokens.merged`) documents share more than their prompts: what is computed
    (`input_ids`, `position_ids`, `layout`) is then shorter than the documents end to end, which `labels`,
    `document_ids` and `per_token` still are.
    """

    input_ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64
    position_ids: Tensor  # [B, T] int64
    document_ids: Tensor  # [B, T] int64
    layout: Layout
    per_token: Mapping[str, Tensor] = field(default_factory=dict)
    per_document: Mapping[str, Tensor] = field(default_factory=dict)
    once: Once | None = None
    _targets: Targets | None = field(default=None, init=False, repr=False, compare=False)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        moved = replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            document_ids=self.document_ids.to(device, non_blocking=True),
            layout=self.layout.to(device),
            per_token={k: v.to(device, non_blocking=True) for k, v in self.per_token.items()},
            per_document={k: v.to(device, non_blocking=True) for k, v in self.per_document.items()},
            once=None if self.once is None else self.once.to(device),
        )
        object.__setattr__(moved, "_targets", Targets(*(part.to(device, non_blocking=True) for part in self.targets())))
        return moved

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a copy to a GPU need not be waited for."""
        pinned = replace(
            self,
            input_ids=self.input_ids.pin_memory(),
            labels=self.labels.pin_memory(),
            position_ids=self.position_ids.pin_memory(),
            document_ids=self.document_ids.pin_memory(),
            per_token={k: v.pin_memory() for k, v in self.per_token.items()},
            per_document={k: v.pin_memory() for k, v in self.per_document.items()},
        )
        object.__setattr__(pinned, "_targets", Targets(*(part.pin_memory() for part in self.targets())))
        return pinned

    @property
    def num_documents(self) -> int:
        """D, the number of documents in the whole batch."""
        return int(self.document_ids.max()) + 1 if self.document_ids.numel() else 0

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token; what documents share counts once."""
        if self.once is not None:
            real = self.layout.real
            return self.input_ids.numel() if real is None else int(real.sum())
        return int((self.document_ids != PADDING).sum())

    @property
    def num_targets(self) -> int:
        """Tokens that are learned."""
        return self.targets()[0].numel()

    def targets(self) -> Targets:
        """Where something is learned, and what: N tokens, in the order of their places.

        Never crosses the border of a document or row, never points into padding. What follows a shared prompt comes
        from the prompt's last token, so a source may stand there several times. Found once per batch, on the device it
        was made on (`collate`: the CPU), because counting on a GPU would stall it.
        """
        if self.once is not None:
            return self.once.targets
        if self._targets is None:
            object.__setattr__(self, "_targets", self._find_targets())
        assert self._targets is not None
        return self._targets

    def _find_targets(self) -> Targets:
        here, following = self.document_ids[:, :-1], self.document_ids[:, 1:]
        learned = (here == following) & (here != PADDING) & (self.labels[:, 1:] != IGNORE)
        branches = self.layout.branches
        if branches is None:
            row, column = learned.nonzero(as_tuple=True)
            index = row * self.input_ids.shape[1] + column
            return Targets(index, self.labels[row, column + 1], index + 1)
        labels = self.labels.flatten()
        everywhere = torch.zeros_like(self.labels, dtype=torch.bool)
        everywhere[:, 1:] = learned
        everywhere = everywhere.flatten()
        everywhere[branches.firsts] = labels[branches.firsts] != IGNORE
        before = torch.arange(-1, len(labels) - 1, device=labels.device)
        before[branches.firsts] = branches.sources
        places = everywhere.nonzero().view(-1)
        return Targets(before[places], labels[places], places)


def collate(rows: Sequence[Sequence[Doc]], length: int, pad_id: int) -> Batch:
    """Lay the documents of each row end to end in `length` positions and pad the rest.

    All documents must carry the same `per_token` and `fields` names; one with a `prefix` needs a trunk before it in its
    row. Raises DataError for a row that does not fit.
    """
    shape = (len(rows), length)
    input_ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    documents = np.full(shape, PADDING, np.int64)
    docs = [doc for row in rows for doc in row]
    per_token = {name: np.zeros(shape, np.float32) for name in same_names(docs, "per_token")}
    number = 0
    for b, row in enumerate(rows):
        used = sum(len(doc) for doc in row)
        if used > length:
            raise DataError(f"a row of {used} tokens does not fit {length} positions", where=f"row {b}")
        start = 0
        for doc in row:
            span = slice(start, start + len(doc))
            input_ids[b, span] = doc.input_ids
            labels[b, span] = doc.labels
            documents[b, span] = number
            for name, grid in per_token.items():
                grid[b, span] = doc.per_token[name]
            start, number = span.stop, number + 1
    document_ids = torch.from_numpy(documents)
    prefixes = [doc.prefix for doc in docs] if any(doc.prefix for doc in docs) else ()
    layout = Layout.packed(document_ids, prefixes)
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        position_ids=layout.position_ids * (document_ids != PADDING),
        document_ids=document_ids,
        layout=layout,
        per_token={name: torch.from_numpy(grid) for name, grid in per_token.items()},
        per_document={name: column([doc.fields[name] for doc in docs]) for name in same_names(docs, "fields")},
    )
    batch.targets()
    return batch


def same_names(docs: Sequence[Doc], kind: str) -> list[str]:
    """The value names that all documents share; a document that lacks one would silently train on zeros."""
    names = list(getattr(docs[0], kind)) if docs else []
    for doc in docs:
        assert set(getattr(doc, kind)) == set(names), f"documents of one batch differ in {kind}"
    return names


def column(values: Sequence[float | int | bool]) -> Tensor:
    """[D]: bool and int64 stay what they are, everything else is fp32."""
    array = np.asarray(values)
    if array.dtype.kind == "b":
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.int64 if array.dtype.kind in "iu" else np.float32))
