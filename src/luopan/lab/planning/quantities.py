"""Quantities as people write them: 135M, 1.5e9, 12h, 3d; and as they read them."""

from __future__ import annotations

import re

from luopan.errors import RecipeError

_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_TIMES = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-z]*)", re.IGNORECASE)


def read_count(text: str, what: str) -> float:
    """135M → 1.35e8; RecipeError naming `what`."""
    return _read(text, what, _FACTORS, "Write 135M, 1.5B, 11T or a plain number.")


def read_seconds(text: str, what: str) -> float:
    """3d → 259200.0."""
    return _read(text, what, _TIMES, "Write 90min, 12h, 3d or 2w.")


def _read(text: str, what: str, factors: dict[str, float], hint: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    factor = factors.get(match[2].lower()) if match else None
    if match is None or factor is None or not float(match[1]) > 0:
        raise RecipeError(f"{what} is {text!r}", hint=hint)
    return float(match[1]) * factor


def count_text(value: float) -> str:
    """1.35e8 → 135M."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}" if value < 1000 * factor else f"{value / factor:,.0f}{letter}"
    return f"{value:.3g}"


def time_text(seconds: float) -> str:
    """93784 → 26.1 hours."""
    for factor, unit in ((86_400 * 2, "days"), (5400, "hours"), (90, "minutes")):
        if seconds >= factor:
            return f"{seconds / {'days': 86_400, 'hours': 3600, 'minutes': 60}[unit]:,.1f} {unit}"
    return f"{seconds:.3g} s"
