"""Defaults of the curation steps for kinds of text.

Each is what a recipe would write out: only what differs from the plain defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

PresetName = Literal["web", "books", "code", "maths", "zh"]

PRESETS: dict[str, dict[str, Any]] = {
    # The steps of FineWeb (arXiv:2406.17557), with its thresholds.
    "web": {
        "max_document_bytes": None,
        "urls": {},
        "language": {"languages": ["en"]},
        "gopher_quality": {"min_stop_words": 2, "max_symbol_ratio": None},
        "c4": {},
        "fineweb": {},
        "toxicity": {},
        "pii": {},
        "minhash": {},
        "repeated_spans": {},
    },
    # Pieces of books: dialogue and verse break line rules that are right for web pages.
    "books": {"minhash": {}, "repeated_spans": {}},
    "code": {
        "gopher_repetition": None,
        "gopher_quality": None,
        "normalise": {"fix_encoding": False, "unescape_entities": False},
        "minhash": {},
        "pii": {},
    },
    "maths": {"gopher_quality": {"min_alphabetic_words": 0.5, "max_symbol_ratio": 0.6}, "minhash": {}},
    "zh": {"language": {"languages": ["zh"]}, "minhash": {}, "repeated_spans": {}},
}


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`, key by key within blocks; null in `given` turns a block off."""
    result = dict(defaults)
    for key, value in given.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result
