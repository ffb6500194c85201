"""The rollout log: every answer that was sampled, with what it was worth; a file of JSON lines per generation.

    runs/mine/grpo/rollouts/step-000120.jsonl    a line per prompt: question, tokens, and its answers

Files are named by the update that sampled them, so a resumed run writes over its own lines and never doubles them. Text
is for people, `prompt_ids`, `tokens` and `logprobs` (of the distribution sampled from) for programs. `policy` counts
the updates that the weights had seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_text
from luopan.errors import ArtifactError
from luopan.train.ranks import rank

_NAME = re.compile(r"step-(\d{6,})\.jsonl")


def write_log(folder: Path, step: int, records: Sequence[dict[str, Any]]) -> None:
    """The records of the generation that update `step` sampled; rank 0 writes."""
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        atomic_write_text(folder / f"step-{step:06d}.jsonl", "".join(lines))


def logged_steps(folder: Path) -> list[int]:
    """The updates that sampled, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def read_log(folder: Path, step: int) -> Iterator[dict[str, Any]]:
    """The records of one file, in order. ArtifactError for a line that is none."""
    file = folder / f"step-{step:06d}.jsonl"
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise ArtifactError("not a record of the rollout log", where=f"{file}:{number}") from None
