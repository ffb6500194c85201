"""From answers to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from luopan.artifacts import atomic_write_text
from luopan.errors import RecipeError
from luopan.lab.compass.answers import Answers, interview, read_answers
from luopan.lab.compass.papers import recipe, specification
from luopan.lab.compass.rules import Direction, point
from luopan.recipe.load import load_recipe

Ask = Callable[[str, str, str], str]


def ask_and_point(
    flags: Mapping[str, Any], file: Path | None, ask: Ask | None, say: Callable[[str], None]
) -> tuple[Answers, Direction]:
    """The answers of file and flags (flags win), the rest asked where goal or reason are missing and one can ask."""
    known = {**(_from_file(file) if file is not None else {}), **{k: v for k, v in flags.items() if v is not None}}
    whole = "goal" in known and "reason" in known
    answers = read_answers(known) if whole or ask is None else interview(known, ask, say)
    return answers, point(answers)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"the answers cannot be read: {error}", where=file) from None
    if not isinstance(found, dict):
        raise RecipeError("the answers must be a block of keys", where=file)
    return found


def write_papers(out: Path, answers: Answers, direction: Direction, *, force: bool = False) -> list[Path]:
    """NAME.md, and NAME.yaml where something is trained; the recipe is loaded before it is written."""
    name = out.name
    page, file = out.with_name(f"{name}.md"), out.with_name(f"{name}.yaml")
    wanted = [page, *([file] if direction.trains else [])]
    for path in wanted:
        if path.exists() and not force:
            raise RecipeError(f"{path} is there already", hint="Choose another name with --out, or --force.")
    texts = {page: specification(name, answers, direction)}
    if direction.trains:
        texts[file] = recipe(name, answers, direction)
        load_recipe(yaml.safe_load(texts[file]))
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        atomic_write_text(path, text)
    return wanted
