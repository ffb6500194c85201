"""How a corpus was made, for its page: the steps with what they do and their settings, and the whole configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from luopan.report.data import Cell, Note, Table
from luopan.report.markup import Markup, tag

MEANINGS = {
    "found": "Files and rows in the sources.",
    "read": "Those that could be read as text.",
    "extract": "Takes the text out of web pages.",
    "urls": "Leaves out pages by their address.",
    "normalise": "Mends encoding, characters and white space.",
    "pieces": "Cuts documents that are too long.",
    "language": "Keeps the languages that were asked for.",
    "gopher_repetition": "Leaves out documents that repeat their own lines and phrases.",
    "gopher_quality": "Leaves out what is not running text: too short, too few words, too many symbols.",
    "c4": "Leaves out lines and documents that are web furniture: menus, code, notices.",
    "fineweb": "Leaves out lists and badly broken lines.",
    "toxicity": "Leaves out insults and listed words.",
    "pii": "Replaces personal data.",
    "quality": "Scores documents with a classifier of your own.",
    "exact": "Leaves out documents whose text came before.",
    "minhash": "Leaves out documents that are nearly the same as an earlier one.",
    "decontaminate": "Leaves out documents that hold questions of evaluation sets.",
    "repeated_spans": "Leaves out documents with a span many times in a row.",
    "sample": "Keeps a random part.",
    "capped": "Keeps at most so many bytes of a source.",
    "train": "To train on.",
    "held_out": "Kept apart, to measure on.",
}
KEYS = {"pieces": "max_document_bytes"}  # of the configuration, where it is not the step's name
LACKING = re.compile(  # notes that say that something is missing
    r"too few documents|was left out|test items are looked for|^nothing is left of|could not be read|cannot be read"
)
WHOLE = re.compile(r"\b([\d,]+) of \1 test items are looked for$")


def note_of(text: str) -> Note:
    """A note of the funnel; a warning where it says that something is missing."""
    lacking = LACKING.search(text) and not WHOLE.search(text)
    return Note(text=text, level="warning" if lacking else "info")


def meaning(step: str) -> str:
    """What a step does, in one sentence; nothing of steps that are not known here."""
    return MEANINGS.get(step, "")


def shortened(place: str) -> str:
    """A long absolute path by its last two parts; anything else as it is."""
    parts = PurePath(place).parts
    return f"…/{'/'.join(parts[-2:])}" if place.startswith("/") and len(parts) > 3 else place


def made_table(card: Mapping[str, Any], funnel: Mapping[str, Any]) -> Table | None:
    """Version, preset, and what each step was set to where that is not the default; None for a card without it."""
    made = card.get("made_by")
    if not made:
        return None
    settings = dict(made["settings"])
    rows: list[list[Cell]] = [["luopan", made["luopan"]], ["preset", settings.pop("preset", None) or "none"]]
    own = settings.pop("per_source", {})
    for step in funnel["steps"]:
        key = KEYS.get(step["step"], step["step"])
        if key in settings or step["step"] not in ("found", "read", "capped", "train"):
            rows.append([step["step"], words_of(settings.pop(key, {}), key)])
    rows += [[key, words_of(value, key)] for key, value in settings.items()]
    for name, steps in own.items():
        different = {key: value for key, value in steps.items() if value != made["settings"].get(key)}
        rows.append([f"{name} alone", words_of(different, "")])
    for name, source in card["sources"].items():
        if source.get("max_bytes") is not None:
            rows.append([f"{name} alone", f"max_bytes {source['max_bytes']:,}"])
    caption = "Settings that are not the plain defaults."
    return Table(title="", columns=["step", "settings"], rows=rows, caption=caption)


def words_of(value: Any, key: str) -> str:
    """Settings in one line: `min_words 30, max_symbol_ratio off`."""
    if value is None:
        return "no limit" if key in KEYS.values() else "off"
    if not isinstance(value, Mapping):
        return one_line(value)
    return ", ".join(f"{name} {one_line(each)}" for name, each in value.items()) or "defaults"


def one_line(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str | float):
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6).strip()


def whole_configuration(card: Mapping[str, Any]) -> Markup | None:
    """The settings as a recipe's curate stage has them, and the sources' paths, folded."""
    made = card.get("made_by")
    if not made:
        return None
    text = yaml.safe_dump(made["settings"], allow_unicode=True, sort_keys=False) if made["settings"] else "{}"
    listed = [tag("li", f"{name}: {source['origin']}") for name, source in card["sources"].items() if source["origin"]]
    inside = tag("div", tag("pre", text), tag("p", "Sources:") if listed else None, tag("ul", *listed), class_="recipe")
    return tag("details", tag("summary", "As keys of a recipe's curate stage, and the sources' places"), inside)
