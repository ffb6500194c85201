"""`key.path=value` on the command line: one setting of a recipe, changed without touching its file.

The path starts with a key of the recipe (`seed=3`, `corpus.path=texts`, `stages.sft.learning_rate=1e-3`) or, shorter,
with a stage's name (`sft.learning_rate=1e-3`). List items are counted from 0 (`sft.data.0.examples=500`). The value is
read as YAML: `1e-3`, `true`, `null`, `[1, 2]`, `{packaged: [plays]}`; anything else is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from luopan.recipe.introspect import annotations_at, child, fields_of, known_keys, suggestion
from luopan.recipe.problems import Problem, dotted
from luopan.recipe.yaml_source import Key, KeyPath, Located, Location, parse_value


def apply_overrides(located: Located, overrides: Iterable[str], model: type[BaseModel]) -> list[Problem]:
    """Changes `located` in place, later overrides last; returns what is wrong with those that could not be applied."""
    problems = []
    for text in overrides:
        where = Location(f'override "{text}"')
        problem = _apply(text, where, located, model)
        if problem:
            problems.append(Problem(where, "", problem))
    return problems


def _apply(text: str, where: Location, located: Located, model: type[BaseModel]) -> str:
    left, equals, right = text.partition("=")
    if not equals or not left.strip():
        return "an override is written key.path=value, for example sft.learning_rate=1e-3"
    if not isinstance(located.data, dict):
        return "the recipe is not a block of keys"
    path, problem = _resolve(left.strip(), located.data, model)
    if problem:
        return problem
    problem = _set(located.data, path, parse_value(right.strip()))
    if problem:
        return problem
    _forget(located, path)
    located.keys[path] = located.values[path] = where
    return ""


def _resolve(left: str, data: dict[str, Any], model: type[BaseModel]) -> tuple[KeyPath, str]:
    """The full path of an override, or a sentence that says which part of it does not exist."""
    roots = fields_of(model)
    stages = child(data, "stages")
    stages = stages if isinstance(stages, Mapping) else {}
    head = left.partition(".")[0]
    if head not in roots and head in stages:
        left, head = f"stages.{left}", "stages"
    if head not in roots:
        return (), f'unknown key or stage "{head}"{suggestion(head, [*roots, *stages], list_up_to=30)}'
    path: list[Key] = []
    words = left.split(".")
    for position, word in enumerate(words):
        here = child_at(data, path)
        key: Key = int(word) if word.isdigit() and isinstance(here, list | None) and path else word
        if path == ["stages"] and word not in stages and position < len(words) - 1:
            return (), f'unknown stage "{word}"{suggestion(word, stages, list_up_to=30)}'
        if not annotations_at(model, data, [*path, key]):
            key = word  # of a map that is written nowhere yet, a number is a key and no place in a list
        if not annotations_at(model, data, [*path, key]):
            known = known_keys(model, data, tuple(path))
            if not known and not isinstance(here, Mapping | list):
                return (), f'"{dotted(path)}" is one value, it has no key "{word}"'
            return (), f'unknown key "{word}" in {dotted(path)}{suggestion(word, known)}'
        path.append(key)
    return tuple(path), ""


def child_at(data: object, path: Iterable[Key]) -> Any:
    """What the data holds at `path`, or None."""
    for key in path:
        data = child(data, key)
    return data


def _set(data: Any, path: KeyPath, value: object) -> str:
    for position, key in enumerate(path[:-1]):
        if isinstance(data, list):
            if not isinstance(key, int) or key >= len(data):
                return f"{dotted(path[:position])} has no item {key}: it has {len(data)}, counted from 0"
            data = data[key]
        else:
            if not isinstance(data.get(key), dict | list):
                data[key] = {}  # written nowhere yet, or replaced by a block
            data = data[key]
    last = path[-1]
    if isinstance(data, list) and (not isinstance(last, int) or last >= len(data)):
        return f"{dotted(path[:-1])} has no item {last}: it has {len(data)}, counted from 0"
    data[last] = value
    return ""


def _forget(located: Located, path: KeyPath) -> None:
    """Drops the lines of what an override replaced."""
    for table in (located.keys, located.values):
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]
