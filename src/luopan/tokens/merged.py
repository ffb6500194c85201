"""Answers to one prompt as one row in which nothing that they have in common is computed twice.

The samples of a group begin alike: with their prompt, and often with many tokens of their answers; some are equal. What
the model makes of a token depends on what stands before it alone, so of all documents with one prompt the one that has
most in common with the others is laid down whole (the trunk), and of each further one what follows after it leaves the
trunk (`model.branches`). The batch still speaks of whole documents: labels, columns and document numbers are those of
all documents end to end, `Batch.targets` says for each trained token where in the row it is predicted, and `Batch.once`
which of them are one and the same. So losses see every token of every document, with its own advantage, and values and
gradients are those of separate documents, up to rounding.

Limits: two branches that go on alike after they left the trunk are computed apart (of 1,193 distinct tokens in a step
of the quickstart's GRPO 1,230 are computed, of 4,156 in all). Experts' loads would count a shared token once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from luopan.model.attention import Layout
from luopan.tokens.batch import PADDING, Batch, Doc, Once, Targets, column, same_names
from luopan.tokens.example import IGNORE

_CANDIDATES = 32  # for the trunk: comparing all with all costs their square


def collate_merged(docs: Sequence[Doc], pad_id: int = 0, *, multiple: int = 1) -> Batch:
    """Whole documents (no `prefix`) as a batch of one row, padded to a multiple of `multiple` positions; labels are
    input ids or `IGNORE`."""
    assert docs and not any(doc.prefix for doc in docs), "documents are merged here, not before"
    ids = [np.asarray(doc.input_ids, np.int64) for doc in docs]
    labels = np.concatenate([np.asarray(doc.labels, np.int64) for doc in docs])
    where, pieces, prefixes = _laid_out(ids, [prompt_of(doc) for doc in docs])
    places = np.concatenate(where)
    lengths = [len(one) for one in ids]
    begins = np.zeros(len(places), bool)
    begins[np.cumsum([0, *lengths[:-1]])] = True
    trained = np.flatnonzero((labels != IGNORE) & ~begins)
    _, first, of = np.unique(places[trained], return_index=True, return_inverse=True)
    numbers = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    padding = np.full(-len(numbers) % multiple, PADDING)
    document = torch.from_numpy(np.concatenate([numbers, padding])[None])
    layout = Layout.packed(document, prefixes)
    targets = Targets(*(torch.from_numpy(part) for part in (places[trained - 1], labels[trained], trained)))
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([*pieces, np.full(len(padding), pad_id)])[None]),
        labels=torch.from_numpy(labels[None]),
        position_ids=layout.position_ids * (document != PADDING),
        document_ids=torch.from_numpy(np.repeat(np.arange(len(docs)), lengths)[None]),
        layout=layout,
        per_token={
            name: torch.from_numpy(np.concatenate([np.asarray(doc.per_token[name], np.float32) for doc in docs])[None])
            for name in same_names(docs, "per_token")
        },
        per_document={name: column([doc.fields[name] for doc in docs]) for name in same_names(docs, "fields")},
        once=Once(targets, torch.from_numpy(first), torch.from_numpy(of)),
    )


def prompt_of(doc: Doc) -> bytes:
    """The tokens before the first trained one, as int64."""
    trained = np.flatnonzero(np.asarray(doc.labels) != IGNORE)
    end = int(trained[0]) if trained.size else len(doc)
    return np.asarray(doc.input_ids[:end], np.int64).tobytes()


def _laid_out(
    ids: Sequence[np.ndarray], prompts: Sequence[bytes]
) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """Of each document where in the row its tokens stand; the pieces of the row, and how many tokens of the trunk
    before it each continues."""
    groups: dict[bytes, list[int]] = {}
    equal: dict[tuple[bytes, bytes], int] = {}  # of equal documents the first stands for all
    first = [
        equal.setdefault((prompt, one.tobytes()), number) for number, (prompt, one) in enumerate(zip(prompts, ids))
    ]
    for number in equal.values():
        groups.setdefault(prompts[number], []).append(number)
    where: list[np.ndarray] = [np.zeros(0, np.int64)] * len(ids)
    pieces: list[np.ndarray] = []
    prefixes: list[int] = []
    start = 0
    for members in groups.values():
        trunk = where[0]
        for number, shared in _by_trunk([ids[number] for number in members]):
            own = ids[members[number]][shared:]
            placed = np.concatenate([trunk[:shared], np.arange(start, start + len(own))])
            where[members[number]] = placed
            trunk = trunk if shared else placed
            if len(own):  # else it is the beginning of the trunk
                pieces.append(own)
                prefixes.append(shared)
                start += len(own)
    return [where[number] for number in first], pieces, prefixes


def _by_trunk(documents: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Of distinct documents the trunk (with 0), then the others with how many tokens they share with it, then, each a
    trunk of its own, those that share none."""
    lengths = np.array([len(one) for one in documents])
    table = np.full((len(documents), int(lengths.max())), -1, np.int64)
    for row, one in zip(table, documents, strict=True):
        row[: len(one)] = one
    tried = table[:_CANDIDATES]
    alike = np.logical_and.accumulate(tried[:, None] == table[None], axis=2).sum(2)  # [tried, all]
    trunk = int(alike.sum(1).argmax())  # with itself each has the table's width in common
    shared = alike[trunk]
    yield trunk, 0
    others = [number for number in range(len(documents)) if number != trunk]
    yield from ((number, int(shared[number])) for number in others if shared[number])
    yield from ((number, 0) for number in others if not shared[number])
