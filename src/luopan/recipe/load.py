"""From a recipe's name, file or mapping to a checked recipe, with every mistake named at once.

Steps: find the file, read the YAML with its lines, apply overrides, check it against the model, check the references
between stages. Values are checked strictly (a quoted "3" is text, not a number; `true` is not 1), but a number without
a fraction may be written for a whole number (`max_steps: 2e3`). No torch is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from luopan.artifacts import plain
from luopan.errors import RecipeError
from luopan.recipe.introspect import suggestion
from luopan.recipe.overrides import apply_overrides, child_at
from luopan.recipe.problems import Problem, RecipeProblems, data_path, found, problems_of
from luopan.recipe.references import reference_problems
from luopan.recipe.yaml_source import Located, read_yaml

LOCK_KEY = "lock"
"""What `recipe.lock.yaml` adds to a recipe (versions, identities); ignored when such a file is run again."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, where it came from, the overrides that went into it, and what is written after them."""

    recipe: Any
    source: str
    overrides: tuple[str, ...]
    written: dict[str, Any]


def shipped_folder() -> Path:
    """The folder of the recipes that come with the package."""
    return Path(__file__).resolve().parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name → file of every shipped recipe."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a shipped name or a path; raises RecipeError with what was probably meant."""
    path, text = Path(recipe), str(recipe)
    shipped = shipped_recipes()
    if text in shipped:
        return shipped[text]
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError("is a folder, not a recipe file", where=path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        beside = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"no such file{suggestion(path.name, beside, list_up_to=0)}", where=path)
    raise RecipeError(
        f'there is no shipped recipe "{text}"{suggestion(text, shipped, list_up_to=30)}',
        hint="Give one of `luopan recipes list` or the path of a YAML file.",
    )


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | BaseModel,
    overrides: Sequence[str] = (),
    *,
    model: type[BaseModel] | None = None,
) -> LoadedRecipe:
    """Loads and checks a recipe: a shipped name, a path, a mapping, or a recipe object (then no overrides).

    Raises RecipeError; with mistakes in the recipe it is a `RecipeProblems` that lists them all.
    """
    if model is None:
        from luopan.recipe.specs import Recipe

        model = Recipe
    if isinstance(recipe, BaseModel):
        if overrides:
            raise RecipeError("overrides need a recipe file or a mapping, not a finished recipe object")
        return LoadedRecipe(recipe, "a recipe object", (), _as_written(recipe))
    if isinstance(recipe, Mapping):
        located = Located(plain(recipe), "recipe")
    else:
        located = read_yaml(find_recipe(recipe))
    checked = check_recipe(located, overrides, model)
    assert isinstance(located.data, dict)
    return LoadedRecipe(checked, located.source, tuple(overrides), located.data)


def _as_written(recipe: BaseModel) -> dict[str, Any]:
    """A recipe object as a file would have it: no defaults, and no corpus section copied to its stages."""
    data = recipe.model_dump(mode="json", exclude_unset=True)
    for stage in data.get("stages", {}).values():
        if data.get("corpus") is not None and stage.get("source") == data["corpus"]:
            del stage["source"]
    return data


def check_recipe(located: Located, overrides: Sequence[str], model: type[BaseModel]) -> Any:
    """The recipe object of located data, or RecipeProblems with all that is wrong with it."""
    data = located.data
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"expected a block of keys, found {found(data)}"
        raise RecipeError(what, where=located.source, hint="Start from a copy: luopan recipes copy smoke my.yaml")
    data.pop(LOCK_KEY, None)
    problems = apply_overrides(located, overrides, model)
    recipe, errors = _validate(located, model)
    if errors is not None:
        problems += problems_of(errors, model, located)
    known = {problem.path for problem in problems}
    problems += [problem for problem in reference_problems(model, located) if problem.path not in known]
    problems += _stage_name_problems(located, model)
    if problems:
        raise RecipeProblems(problems)
    return recipe


def _validate(located: Located, model: type[BaseModel]) -> tuple[Any, ValidationError | None]:
    # What is short for other keys (presets) is filled in first.
    expand: Callable[[Any], Any] = getattr(model, "expand", lambda data: data)
    try:
        return model.model_validate_json(json.dumps(expand(located.data)), strict=True), None
    except ValidationError as error:
        if not _whole_numbers(error, located.data):
            return None, error
    try:
        return model.model_validate_json(json.dumps(expand(located.data)), strict=True), None
    except ValidationError as error:
        return None, error


def _whole_numbers(error: ValidationError, data: Any) -> bool:
    """Makes 2000 of 2e3 where a whole number is expected; True if there was such a place."""
    changed = False
    for item in error.errors(include_url=False, include_context=False):
        value = item["input"]
        if item["type"] in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
            path = data_path(item["loc"], data)
            holder = child_at(data, path[:-1])
            if path and child_at(data, path) == value and holder is not None:
                holder[path[-1]] = int(value)
                changed = True
    return changed


def _stage_name_problems(located: Located, model: type[BaseModel]) -> list[Problem]:
    """A stage's name is a folder, a key of overrides and a word of the command line: it has to work as all three."""
    stages = child_at(located.data, ("stages",))
    problems = []
    for name in stages if isinstance(stages, dict) else ():
        path = ("stages", name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            message = f'"{name}" cannot name a stage: use letters, digits, - and _'
        elif name in model.model_fields:
            message = f'a stage cannot be called "{name}": the recipe has a key of that name'
        else:
            continue
        problems.append(Problem(located.location(path), f"stages.{name}", message))
    return problems
