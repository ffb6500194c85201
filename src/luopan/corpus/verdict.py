"""What a filter found: the rule, the value, the threshold it broke."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

What = TypeVar("What")
Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule` is the name of the threshold in the step's block (with its n where it has one)."""

    rule: str
    value: float
    threshold: float


def above(rule: str, value: float, most: float | None) -> Finding | None:
    """A finding where `value` exceeds `most`; None means no limit."""
    return Finding(rule, value, most) if most is not None and value > most else None


def below(rule: str, value: float, least: float | None) -> Finding | None:
    """A finding where `value` falls short of `least`; None means no limit."""
    return Finding(rule, value, least) if least is not None and value < least else None


def first(rules: Iterable[Callable[[What, Config], Finding | None]], what: What, config: Config) -> Finding | None:
    """The first finding of `rules`, or None if `what` may stay."""
    for rule in rules:
        finding = rule(what, config)
        if finding is not None:
            return finding
    return None
