"""Word lists and hand-written rows that the skill families share, read once from `data/`."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from luopan.errors import DataError


@cache
def words(name: str) -> tuple[str, ...]:
    """The list of that name in `data/words.txt`; DataError if there is none."""
    for line in _read("words.txt").splitlines():
        head, colon, rest = line.partition(":")
        if colon and head == name:
            return tuple(rest.split())
    raise DataError(f"there is no word list {name!r}", where="data/words.txt")


@cache
def rows(file: str) -> tuple[dict[str, Any], ...]:
    """The rows of a .jsonl file in `data/`; callers treat them as read-only.

    A row with `compose` gets more wordings: every frame with every word in it. Held-out combinations then ask whether
    a model has learned the parts, which it can, while a held-out single wording may hold words it has never met.
    """
    parsed = []
    for number, line in enumerate(_read(file).splitlines(), start=1):
        if line.strip():
            try:
                parsed.append(_composed(json.loads(line)))
            except json.JSONDecodeError as error:
                raise DataError(f"not a JSON object: {error}", where=f"data/{file}:{number}") from error
    return tuple(parsed)


def _composed(row: dict[str, Any]) -> dict[str, Any]:
    groups = row.get("compose", ())
    more = [frame.replace("{w}", word) for group in groups for frame in group["frames"] for word in group["words"]]
    field = "questions" if "questions" in row else "users"
    if field not in row:
        return row
    unique: dict[str, str] = {}
    for text in (*row[field], *more):
        unique.setdefault(text.lower().rstrip("?.!"), text[0].upper() + text[1:])
    return {**row, field: list(unique.values())}


def _read(file: str) -> str:
    return (resources.files("luopan.corpus.skills") / "data" / file).read_text(encoding="utf-8")
