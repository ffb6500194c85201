"""A change to a recipe that is put to the test: its name, why it should help, and the settings it consists of.

    qk-norm:pretrain.model.qk_norm=true           on the command line
    change.yaml                                    name, hypothesis, set: {pretrain.model.qk_norm: true}

One setting is one change. Several at once tell nothing of each, so they are refused unless they are asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luopan.errors import RecipeError
from luopan.recipe.lock import dump_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
BASELINE = "baseline"


@dataclass(frozen=True)
class Change:
    """`settings` are overrides: key.path=value."""

    name: str
    settings: tuple[str, ...]
    hypothesis: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.settings)


def read_change(text: str) -> Change:
    """A change from the command line or a file. RecipeError where it is none."""
    if text.endswith((".yaml", ".yml")):
        return _from_file(Path(text))
    head, colon, rest = text.partition(":")
    name, setting = (head, rest) if colon and NAME.fullmatch(head) and "=" in rest else ("", text)
    path, equals, value = setting.partition("=")
    if not (equals and "." in path and value.strip()):
        raise RecipeError(
            f'"{text}" is no change', hint="Write NAME:STAGE.KEY=VALUE, or the name of a YAML file with name and set."
        )
    name = name or re.sub(r"[^A-Za-z0-9]+", "_", f"{path.rpartition('.')[2]}_{value}").strip("_")
    return _checked(Change(name, (setting.strip(),)))


def _from_file(file: Path) -> Change:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"the change cannot be read: {error}", where=file) from None
    if not isinstance(found, dict) or not isinstance(found.get("set"), dict) or not found["set"]:
        raise RecipeError("a change needs a block `set` of key.path: value", where=file)
    if unknown := set(found) - {"name", "hypothesis", "set"}:
        raise RecipeError(f"unknown key {sorted(unknown)[0]!r}", where=file, hint="name, hypothesis, set")
    settings = tuple(f"{path}={_value(value)}" for path, value in found["set"].items())
    return _checked(Change(str(found.get("name", file.stem)), settings, str(found.get("hypothesis", ""))), file)


def _value(value: Any) -> str:
    """A value as an override is written: one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip() if isinstance(value, dict | list) else ""
    return text or dump_yaml(value).removesuffix("\n...\n").strip()


def _checked(change: Change, where: Path | None = None) -> Change:
    if not NAME.fullmatch(change.name) or change.name == BASELINE:
        raise RecipeError(
            f"{change.name!r} cannot be a change's name", where=where, hint=f"letters, digits, - and _; not {BASELINE}"
        )
    return change
