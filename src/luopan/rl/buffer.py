"""What a generation learns from, as a file: numbers as they were, so that a resumed run computes with the same bits.

`buffer-000012.safetensors` holds the documents end to end (tokens, labels, columns in fp32 as batches have them, fields
as they are), figures and carry as JSON in its head. Written aside and renamed, like everything that a run must find
again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from luopan.artifacts import atomic_write_bytes
from luopan.errors import ArtifactError
from luopan.tokens.batch import Doc

Unit = Sequence[Doc]
"""Documents that must be in one micro-batch."""

_NAME = re.compile(r"buffer-(\d{6,})\.safetensors")
_HEAD = 8  # bytes of a safetensors file that say how long its head is


def write_buffer(
    folder: Path, generation: int, units: Sequence[Unit], figures: Mapping[str, float], carry: Mapping[str, float]
) -> None:
    """Write a generation down; all documents have the same columns and fields."""
    docs = [doc for unit in units for doc in unit]
    assert not any(doc.prefix for doc in docs), "prompts are shared when rows are packed, not before"
    tensors = {
        "units": np.array([len(unit) for unit in units], np.int64),
        "lengths": np.array([len(doc) for doc in docs], np.int64),
        "input_ids": _joined([doc.input_ids for doc in docs], np.int64),
        "labels": _joined([doc.labels for doc in docs], np.int64),
    }
    for name in docs[0].per_token if docs else ():
        tensors[f"token.{name}"] = _joined([doc.per_token[name] for doc in docs], np.float32)
    for name in docs[0].fields if docs else ():
        tensors[f"field.{name}"] = np.array([doc.fields[name] for doc in docs])  # bool, int64 or fp64
    said = {"figures": json.dumps(dict(figures)), "carry": json.dumps(dict(carry))}
    atomic_write_bytes(_file(folder, generation), save(tensors, said))


def read_buffer(folder: Path, generation: int) -> tuple[list[Unit], dict[str, float], dict[str, float]] | None:
    """(units, figures, carry) of a generation, None where it was not written. ArtifactError for a damaged file."""
    file = _file(folder, generation)
    if not file.is_file():
        return None
    try:
        data = file.read_bytes()
        tensors = load(data)
        said = json.loads(data[_HEAD : _HEAD + int.from_bytes(data[:_HEAD], "little")])["__metadata__"]
        ends = np.cumsum(tensors["lengths"])
        docs = [_document(tensors, number, int(end)) for number, end in enumerate(ends)]
        borders = np.cumsum(tensors["units"])
        units: list[Unit] = [docs[int(end) - int(size) : int(end)] for size, end in zip(tensors["units"], borders)]
        return units, json.loads(said["figures"]), json.loads(said["carry"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the rollouts of generation {generation} cannot be read: {error}",
            where=file,
            hint="Put the file back, or remove the newest checkpoint, so that an earlier generation is gone on from.",
        ) from None


def drop_buffers(folder: Path, before: int) -> None:
    """Remove the files of the generations before `before`."""
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) < before:
            path.unlink(missing_ok=True)


def _document(tensors: Mapping[str, np.ndarray], number: int, end: int) -> Doc:
    span = slice(end - int(tensors["lengths"][number]), end)
    return Doc(
        input_ids=tensors["input_ids"][span],
        labels=tensors["labels"][span],
        per_token={name[6:]: values[span] for name, values in tensors.items() if name.startswith("token.")},
        fields={name[6:]: values[number].item() for name, values in tensors.items() if name.startswith("field.")},
    )


def _joined(parts: Sequence[Sequence[float] | np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, kind) for part in parts]) if parts else np.zeros(0, kind)


def _file(folder: Path, generation: int) -> Path:
    return folder / f"buffer-{generation:06d}.safetensors"
