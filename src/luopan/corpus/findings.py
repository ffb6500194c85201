"""Every rule that a text breaks, not the first alone: for looking at what a threshold does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from luopan.corpus import repetition
from luopan.corpus.config import LocalSteps
from luopan.corpus.normalise import normalise
from luopan.corpus.steps import fineweb, gopher_quality
from luopan.corpus.steps.c4 import clean
from luopan.corpus.verdict import Finding
from luopan.corpus.words import Reading


class Found(NamedTuple):
    """A finding and the step whose rule it is about."""

    step: str
    finding: Finding


def all_findings(text: str, config: LocalSteps) -> list[Found]:
    """What the published filters that `config` asks for have against `text`, one finding per group of rules, in the
    order of the steps; the first is the reason for which a run would reject it.

    The text is normalised first, and FineWeb's rules look at what C4's leave of it, as in a run. DataError if
    normalising takes a library that is not installed.
    """
    if config.normalise is not None:
        text = normalise(text, config.normalise)
    reading = Reading(text)
    found = [
        *broken("gopher_repetition", repetition.RULES, reading, config.gopher_repetition),
        *broken("gopher_quality", gopher_quality.RULES, reading, config.gopher_quality),
    ]
    if config.c4 is not None:
        cleaned = clean(text, config.c4)
        reading = Reading(cleaned.text)
        if cleaned.finding is not None:
            found.append(Found("c4", cleaned.finding))
    return [*found, *broken("fineweb", fineweb.RULES, reading, config.fineweb)]


def broken(step: str, rules: Iterable[Any], reading: Reading, block: Any) -> Iterator[Found]:
    """What each of a step's rules has against a text; nothing if the step is left out."""
    if block is None:
        return
    if getattr(block, "english_words", False):
        reading = reading.english
    for rule in rules:
        finding = rule(reading, block)
        if finding is not None:
            yield Found(step, finding)
