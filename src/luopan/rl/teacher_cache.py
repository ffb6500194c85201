"""What a teacher finds likely in a fixed set of documents, on the disk: asked for once, kept for every later run.

The key holds all it depends on: the teacher, the tokens, k, the temperature. Documents are worked through in parts,
each a file that is written whole or not at all, so what was paid for before a stop is not paid for again; a file whose
bytes are not those that were written is made again. A trained token takes 8 k bytes: 1 MB for 1,000 of them at k = 128.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from luopan.artifacts import atomic_write_bytes, stable_hash
from luopan.rl.teacher import Top
from luopan.tokens.batch import Doc
from luopan.train.ranks import leader_first

VERSION = 1  # rises where the same key would be answered otherwise
DOCUMENTS = 64  # of a part
DIGEST = 32  # bytes of SHA-256 in front of the values


def cache_key(teacher: Any, docs: Sequence[Doc], k: int, temperature: float) -> str:
    """Of the teacher (what names its weights), the documents and how they are asked about."""
    tokens = [[list(map(int, doc.input_ids)), list(map(int, doc.labels))] for doc in docs]
    return stable_hash([VERSION, teacher, tokens, k, temperature])[:20]


def cached_top(
    ask: Callable[[Sequence[Doc]], list[Top]],
    docs: Sequence[Doc],
    folder: Path,
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Top]:
    """The teacher's likeliest tokens at the trained places of every document, from `folder` or asked for now.

    `folder` is of one key. `advance` hears how many documents are done.
    """
    parts = [docs[start : start + DOCUMENTS] for start in range(0, len(docs), DOCUMENTS)]

    def make() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(parts):
            if _read(folder, number, part) is None:
                _write(folder, number, ask(part))
            advance(min(len(docs), (number + 1) * DOCUMENTS))

    leader_first(make)
    found: list[Top] = []
    for number, part in enumerate(parts):
        known = _read(folder, number, part)
        assert known is not None, (folder, number)
        found += known
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.bin"


def _write(folder: Path, number: int, found: Sequence[Top]) -> None:
    ids = torch.cat([ids for ids, _ in found]).int()
    values = torch.cat([values for _, values in found]).float()
    data = save({"ids": ids, "logprobs": values})
    atomic_write_bytes(_file(folder, number), hashlib.sha256(data).digest() + data)


def _read(folder: Path, number: int, docs: Sequence[Doc]) -> list[Top] | None:
    """A part; None where it is missing or is not what was written."""
    try:
        content = _file(folder, number).read_bytes()
    except OSError:
        return None
    data = content[DIGEST:]
    if hashlib.sha256(data).digest() != content[:DIGEST]:
        return None
    tensors = load(data)
    ids, values = tensors["ids"].long(), tensors["logprobs"]
    sizes = [doc.num_trained for doc in docs]
    if ids.shape != values.shape or ids.shape[0] != sum(sizes):
        return None
    return list(zip(ids.split(sizes), values.split(sizes), strict=True))
