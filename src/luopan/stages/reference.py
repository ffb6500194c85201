"""Log-probabilities of the reference model: computed once, kept on the disk, never those of a half-trained policy.

The key holds all they depend on: the weights and in how many bits they are held, the tokens and which of them are
scored, precision and device. So a sweep over beta or learning rate, and a stage that is made again with another number
of steps, finds them; a file whose bytes are not those that were written is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from luopan.artifacts import Artifact, atomic_write_bytes, stable_hash
from luopan.model.decoder import Decoder
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.tokens.batch import collate
from luopan.tokens.example import Example
from luopan.train.config import TrainConfig
from luopan.train.device import autocast
from luopan.train.losses import sequence_logprobs
from luopan.train.ranks import leader_first

VERSION = 2  # rises when the same tokens would be scored otherwise, or the file is another
DIGEST = 32  # bytes of SHA-256 in front of the values
Rows = Sequence[Sequence[Example]]


def reference_logprobs(
    chat: Chat, source: Artifact, rows: Rows, config: TrainConfig, out: Workspace, held: str = "fp32"
) -> list[list[float]]:
    """The summed log-probability of each document's trained tokens, row by row; `chat` holds the model of `source`.

    `held` is what its weights are held in (`AdapterConfig.base`).
    """
    ids = [[[doc.prefix, *map(int, doc.input_ids)], list(map(int, doc.labels))] for row in rows for doc in row]
    lengths = [len(row) for row in rows]
    key = stable_hash([VERSION, source.manifest.content, held, ids, lengths, config.precision, chat.device.type])[:20]
    file = out.cache / "reference" / f"{key}.bin"
    documents = sum(map(len, rows))

    def make() -> None:
        if _read(file, documents) is not None:
            return
        if file.exists():
            out.progress.note(f"{file} is damaged; the reference's log-probabilities are computed again")
        out.progress.start(f"{out.name}, reference", len(rows))
        values = score_rows(chat.model, rows, chat, config, out)
        out.progress.finish()
        data = np.asarray([value for row in values for value in row], dtype=np.float64).tobytes()
        atomic_write_bytes(file, hashlib.sha256(data).digest() + data)

    leader_first(make)
    flat = _read(file, documents)
    assert flat is not None, file
    found = iter(flat.tolist())
    return [[next(found) for _ in row] for row in rows]


def _read(file: Path, documents: int) -> np.ndarray | None:
    """The values in a file; None where it is missing or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    data = content[DIGEST:]
    if len(data) != 8 * documents or hashlib.sha256(data).digest() != content[:DIGEST]:
        return None
    return np.frombuffer(data, dtype=np.float64)


@torch.no_grad()
def score_rows(
    model: Decoder, rows: Rows, chat: Chat, config: TrainConfig, out: Workspace | None = None
) -> list[list[float]]:
    """The summed log-probability of each document's trained tokens under `model` as it is now, row by row."""
    training = model.training
    model.eval()
    found = []
    try:
        for number, row in enumerate(rows, start=1):
            bare = [replace(doc, fields={}, per_token={}) for doc in row]
            batch = collate([bare], sum(map(len, bare)), chat.pad_id).to(chat.device)
            with autocast(chat.device, config.precision):  # as in training, or the margins would not start at 0
                found.append(sequence_logprobs(model, batch).tolist())
            if out is not None:
                out.progress.update(number)
    finally:
        model.train(training)
    return found


def with_reference(rows: Rows, scores: Sequence[Sequence[float]]) -> list[list[Example]]:
    """The documents with the reference's log-probability of each."""
    return [
        [
            replace(doc, fields={**doc.fields, "reference_logprob": value})
            for doc, value in zip(row, values, strict=True)
        ]
        for row, values in zip(rows, scores, strict=True)
    ]
