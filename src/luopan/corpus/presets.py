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
    # Plays repeat the speakers' names on lines of their own, verse its refrains: of 306 pieces of novels and plays the
    # plain limits took 27, all of them plays.
    "books": {
        "gopher_repetition": {"max_duplicate_lines": 0.6, "max_duplicate_paragraphs": 0.6},
        "minhash": {},
        "repeated_spans": {},
    },
    "code": {
        "gopher_repetition": None,
        "gopher_quality": None,
        "normalise": {"fix_encoding": False, "unescape_entities": False},
        "minhash": {},
        "pii": {},
    },
    # Worked examples repeat "Problem:", "Solution:" and whole phrases; formulas and tables are few letters. Language is
    # not asked for: a table of constants has none.
    "maths": {
        "gopher_repetition": {
            "max_duplicate_lines": 0.6,
            "max_duplicate_paragraphs": 0.6,
            "max_duplicate_ngrams": {"5": 0.25, "6": 0.24, "7": 0.23, "8": 0.22, "9": 0.21, "10": 0.2},
        },
        "gopher_quality": {"min_alphabetic_words": 0.5, "max_symbol_ratio": 0.6, "min_mean_word_length": 2},
        "minhash": {},
        "repeated_spans": {},
    },
    # A hundred characters of Chinese say as much as fifty words; short chapters are common.
    "zh": {
        "language": {"languages": ["zh"], "min_score": 0.5},
        "gopher_quality": {"min_words": 20},
        "minhash": {},
        "repeated_spans": {},
    },
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
