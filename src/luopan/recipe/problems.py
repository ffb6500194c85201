"""Mistakes in a recipe, each as one line: `file:line: stages.sft.lerning_rate: unknown key ...`.

Turns pydantic's errors into sentences that say what was expected, what was found and what was probably meant, and
collects several of them into one `RecipeError`, so that a recipe with four mistakes is mended in one go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from luopan.errors import RecipeError
from luopan.recipe.introspect import child, known_keys, suggestion
from luopan.recipe.yaml_source import KeyPath, Located, Location

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a block of keys",
    "model": "a block of keys",
    "model_attributes": "a block of keys",
    "none_required": "nothing",
}


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: where it was written, the path of the key, and what is wrong with it."""

    location: Location
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.path}: {self.message}" if self.path else f"{self.location}: {self.message}"


class RecipeProblems(RecipeError):
    """A recipe with one or more mistakes; `problems` holds them, the message lists them all."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        unique = dict.fromkeys(sorted(problems, key=_file_order))
        self.problems: list[Problem] = list(unique)
        lines = [str(problem) for problem in self.problems]
        title = [f"{len(lines)} mistakes in the recipe:"] if len(lines) > 1 else []
        super().__init__("\n".join(title + lines))


def _file_order(problem: Problem) -> tuple[int, str]:
    return problem.location.line or 0, problem.path


def dotted(path: Sequence[object]) -> str:
    """`("stages", "sft", 0)` as `stages.sft.0`."""
    return ".".join(str(key) for key in path)


def problems_of(error: ValidationError, model: type[BaseModel], located: Located) -> list[Problem]:
    """One problem for each mistake; the members of a union that all failed on one value become one."""
    by_path: dict[KeyPath, list[dict[str, Any]]] = {}
    for item in error.errors(include_url=False):
        by_path.setdefault(data_path(item["loc"], located.data, item["type"]), []).append(dict(item))
    problems = [_problem(path, items, model, located) for path, items in by_path.items()]
    return [problem for problem in problems if not _said_already(problem, problems)]


def _said_already(problem: Problem, problems: Sequence[Problem]) -> bool:
    """A key that is missing because it is misspelt is one mistake, not two."""
    block, _, name = problem.path.rpartition(".")
    meant = f'; did you mean "{name}"?'
    return problem.message.startswith("missing key") and any(
        other.message.startswith("unknown key") and other.message.endswith(meant) and other.path.startswith(block)
        for other in problems
    )


def data_path(loc: Sequence[Any], data: object, kind: str = "") -> KeyPath:
    """Pydantic's location without what is not in the data (tags of unions, names of validators)."""
    path: list[Any] = []
    for position, key in enumerate(loc):
        inside = (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int))
        if inside:
            path.append(key)
            data = child(data, key)
        elif position == len(loc) - 1 and kind == "missing":
            path.append(key)
    return tuple(path)


def _problem(path: KeyPath, items: list[dict[str, Any]], model: type[BaseModel], located: Located) -> Problem:
    first = items[0]
    kind = first["type"]
    parent, name = path[:-1], path[-1] if path else ""
    if kind == "extra_forbidden":
        message = f'unknown key "{name}"{suggestion(name, known_keys(model, located.data, parent))}'
    elif kind == "missing":
        message = f'missing key "{name}"'
    elif kind == "union_tag_invalid":
        path, message = _unknown_tag(path, first["ctx"])
    elif kind == "union_tag_not_found":
        tag = str(first["ctx"]["discriminator"]).strip("'")
        message = f'missing key "{tag}"'
    elif len(items) > 1:
        expected = dict.fromkeys(_expected(item) for item in items)
        message = f"expected {' or '.join(expected)}, found {found(first['input'])}"
    else:
        message = _sentence(first)
    location = _location_of(path, message if kind in ("value_error", "assertion_error") else "", located)
    return Problem(location, dotted(path), message)


def _unknown_tag(path: KeyPath, context: dict[str, Any]) -> tuple[KeyPath, str]:
    discriminator = str(context["discriminator"]).strip("'")
    tags = re.findall(r"'([^']*)'", str(context["expected_tags"]))
    message = f'unknown {discriminator} "{context["tag"]}"{suggestion(context["tag"], tags, list_up_to=30)}'
    return (*path, discriminator), message


def _location_of(path: KeyPath, message: str, located: Located) -> Location:
    """The line of the key; for a rule over a whole block, the line of the first of its keys that the rule names."""
    block = located.data
    for key in path:
        block = child(block, key)
    if message and isinstance(block, dict):
        for word in re.findall(r"\w+", message):
            if (*path, word) in located.keys:
                return located.keys[(*path, word)]
    return located.location(path)


def _expected(item: dict[str, Any]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return "one of " + str(context.get("expected")).replace("'", "").replace(" or ", ", ")
    stem = re.sub(r"_(type|parsing|from_float|unicode|exact|schema)$", "", kind)
    if stem in _EXPECTED:
        return _EXPECTED[stem]
    bounds = {"greater_than": "more than {gt}", "greater_than_equal": "at least {ge}"}
    bounds |= {"less_than": "less than {lt}", "less_than_equal": "at most {le}"}
    if kind in bounds:
        return bounds[kind].format(**context)
    if kind == "finite_number":
        return "a finite number"
    return ""


def _sentence(item: dict[str, Any]) -> str:
    kind, value = item["type"], item["input"]
    if kind in ("value_error", "assertion_error"):
        return str(item["ctx"]["error"])
    expected = _expected(item)
    if not expected:
        return f"{item['msg'][:1].lower()}{item['msg'][1:]}, found {found(value)}"
    near = ""
    if kind == "literal_error" and isinstance(value, str):
        words = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        near = suggestion(value, words, list_up_to=0)
    return f"expected {expected}, found {found(value)}{near}"


def found(value: object) -> str:
    """A value in words: `text "fast"`, `the number 3.5`, `a list`, `nothing`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'text "{value}"' if len(value) <= 60 else f'text "{value[:57]}..."'
    if isinstance(value, list | tuple):
        return "a list"
    return "a block of keys" if isinstance(value, dict) else f"{value!r}"
