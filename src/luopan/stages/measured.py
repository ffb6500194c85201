"""Measurements kept with the model they were made on, so that the next stage need not make them again.

A stage ends by measuring its model; the next one would begin by measuring the same model on the same questions. The
measurements are deterministic, so the figures are kept in the artifact under a key that holds everything they depend
on besides the weights (the questions, the sampling, the held-out text, the code's version).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luopan.artifacts import Artifact, atomic_write_json, stable_hash

MEASURED_FILE = "measured.json"
VERSION = 1  # rises when the same question would be graded differently


def key_of(*parts: Any) -> str:
    """A short hash over what a measurement depends on besides the weights."""
    return stable_hash([VERSION, *parts])[:16]


def from_artifact(artifact: Artifact, key: str, compute: Callable[[], Any]) -> Any:
    """What the artifact's own stage measured under `key`, or else `compute()`."""
    file = artifact.path / MEASURED_FILE
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return kept[key] if key in kept else compute()


def keep(folder: Path, key: str, value: Any) -> None:
    """Add a measurement of the finished model to its folder."""
    file = folder / MEASURED_FILE
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    atomic_write_json(file, {**kept, key: value})
