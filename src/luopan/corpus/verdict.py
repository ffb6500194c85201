"""What a filter found: the rule, the value, the threshold it broke."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule` is the name of the threshold in `FilterConfig` (with its n where it has one)."""

    rule: str
    value: float
    threshold: float


def above(rule: str, value: float, most: float | None) -> Finding | None:
    """A finding where `value` exceeds `most`; None means no limit."""
    return Finding(rule, value, most) if most is not None and value > most else None


def below(rule: str, value: float, least: float | None) -> Finding | None:
    """A finding where `value` falls short of `least`; None means no limit."""
    return Finding(rule, value, least) if least is not None and value < least else None
