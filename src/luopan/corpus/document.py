"""A document, and a document that was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `id` is the same on every machine: source, path inside the source, and row or part.

    `meta` holds plain values that say where the text came from (file, line, licence, title).
    """

    id: str
    text: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that was left out and why: `rule` of `step` found `value` where it allows `threshold`.

    `detail` says in words what a number cannot (a parser's message, the id of the twin). `where` is "file:line" or
    "file". `text` is None where the text can be had elsewhere (duplicates, documents over the size cap) or not at all.
    """

    id: str
    source: str
    step: str
    rule: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""
    where: str = ""
    text: str | None = None
    bytes: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def reason(self) -> str:
        """One line for a person: `notes.jsonl:7: json: Expecting ',' delimiter`."""
        if self.detail:
            return f"{self.where or self.id}: {self.rule}: {self.detail}"
        figures = "" if self.value is None else f" {self.value:.4g} (limit {self.threshold:.4g})"
        return f"{self.where or self.id}: {self.rule}{figures}"
