"""The chain of steps that a configuration asks for: names, functions, the rows of the funnel.

A step is a pure function `(DocumentBatch, its configuration) -> Outcome` in `steps/`, in a module of its own name; it
is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from luopan.corpus.batch import DocumentBatch, Outcome
from luopan.corpus.config import CurateConfig, LocalSteps

LOCAL = (
    "extract",
    "urls",
    "normalise",
    "pieces",
    "language",
    "gopher_repetition",
    "gopher_quality",
    "c4",
    "fineweb",
    "toxicity",
    "quality",
)
LATE = ("decontaminate", "repeated_spans", "sample", "pii")  # pii is a source's own, too

Step = Callable[[DocumentBatch, Any], Outcome]


def local_steps(config: LocalSteps) -> list[tuple[str, Step, Any]]:
    """(name, function, its configuration) of the steps that look at one document at a time; those in use, in order."""
    blocks = [(name, config.max_document_bytes if name == "pieces" else getattr(config, name)) for name in LOCAL]
    return [(name, step(name), block) for name, block in blocks if block is not None or name == "pieces"]


def late_steps(config: CurateConfig) -> list[tuple[str, Step, Any]]:
    """As `local_steps`, for the steps after deduplication."""
    return [(name, step(name), getattr(config, name)) for name in LATE if getattr(config, name) is not None]


def step(name: str) -> Step:
    """The function of a step."""
    function: Step = getattr(import_module(f"luopan.corpus.steps.{name}"), name)
    return function


def funnel_steps(config: CurateConfig) -> list[str]:
    """The rows of the funnel, in the order in which documents pass them.

    "found" counts files and rows that could not be read, too; "train" and "held_out" together are what "capped" left.
    """
    used = [config, *config.per_source.values()]
    local = [name for name in LOCAL if name == "pieces" or any(getattr(each, name) is not None for each in used)]
    late = [name for name in ("exact", "minhash", *LATE) if getattr(config, name) is not None]
    if "pii" not in late and any(each.pii is not None for each in used):
        late.append("pii")
    return ["found", "read", *local, *late, "capped", "train", "held_out"]
