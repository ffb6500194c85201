"""Reading lists out of what a model says."""

from __future__ import annotations

import re

_ITEM = re.compile(r"^\s{0,3}(?:\*\*)?\(?(\d{1,3})[.):](?:\*\*)?\s+(\S.*)$")
_QUOTES = (('"', '"'), ("“", "”"), ("「", "」"), ("**", "**"))


def numbered(text: str) -> list[str]:
    """The items of a numbered list, in order; lines below an item belong to it up to an empty one."""
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        if match := _ITEM.match(line):
            found.append(match[2].strip())
            inside = True
        elif not line.strip():
            inside = False
        elif inside:
            found[-1] += "\n" + line.strip()
    return [item for item in map(bare, found) if item]


def bare(text: str) -> str:
    """Without quotation marks around all of it."""
    text = text.strip()
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and len(text) > 2 and opening not in inner:
            return inner.strip()
    return text
