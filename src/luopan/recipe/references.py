"""Which stage reads from which: checks that every stage named by another exists, is of a kind that will do, and that
nothing goes round in a circle.

A spec model says so in its class variable `REFERENCES`: `{key: (kinds that will do, …)}`; the key holds one stage name
or a list of them. The check works on the data as written, so that it can be reported beside other mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from luopan.recipe.introspect import annotations_at, child, models_for, suggestion
from luopan.recipe.problems import Problem, dotted
from luopan.recipe.yaml_source import KeyPath, Located

Reference = tuple[KeyPath, str, tuple[str, ...]]
"""Where a stage is named, its name, and the kinds that will do."""


def read_from(spec: Any) -> dict[str, tuple[str, ...]]:
    """The stages that a checked spec reads from, by key: `{"model": ("pretrain",), "models": ("sft", "grpo")}`."""
    found = {}
    for key in getattr(type(spec), "REFERENCES", {}):
        value = getattr(spec, key)
        if value is not None:
            found[key] = (value,) if isinstance(value, str) else tuple(value)
    return found


def references_in(model: type[BaseModel], data: Any) -> dict[str, list[Reference]]:
    """Every stage name written (or standing as a default) in each stage of a recipe."""
    found: dict[str, list[Reference]] = {}
    stages = child(data, "stages")
    if not isinstance(stages, Mapping):
        return found
    for name, spec in stages.items():
        models = [m for a in annotations_at(model, data, ("stages", name)) for m in models_for(a, spec)]
        one_kind = len(models) == 1 and isinstance(spec, Mapping)
        found[name] = list(_references_of(models[0], spec, ("stages", name))) if one_kind else []
    return found


def _references_of(model: type[BaseModel], spec: Mapping[str, Any], path: KeyPath) -> Iterator[Reference]:
    declared: Mapping[str, tuple[str, ...]] = getattr(model, "REFERENCES", {})
    for key, kinds in declared.items():
        value = spec.get(key, model.model_fields[key].get_default(call_default_factory=True))
        if isinstance(value, str):
            yield (*path, key), value, kinds
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, str):
                    yield (*path, key, index), item, kinds


def reference_problems(model: type[BaseModel], located: Located) -> list[Problem]:
    """One problem for each reference that leads nowhere, to the wrong kind, or round in a circle."""
    references = references_in(model, located.data)
    problems = []
    for stage, named in references.items():
        for path, target, kinds in named:
            message = _wrong(stage, target, kinds, references, located.data)
            if message:
                problems.append(Problem(located.location(path), dotted(path), message))
    problems += [
        Problem(located.location(path), dotted(path), f"the stages go round in a circle: {circle}")
        for path, circle in _circles(references)
    ]
    return problems


def _wrong(stage: str, target: str, kinds: tuple[str, ...], references: Mapping[str, object], data: object) -> str:
    if target == stage:
        return "a stage cannot read from itself"
    if target not in references:
        others = [name for name in references if name != stage]
        return f'unknown stage "{target}"{suggestion(target, others)}'
    kind = child(child(child(data, "stages"), target), "kind")
    if isinstance(kind, str) and kinds and kind not in kinds:
        return f'stage "{target}" is of kind {kind}; expected {" or ".join(kinds)}'
    return ""


def _circles(references: Mapping[str, list[Reference]]) -> list[tuple[KeyPath, str]]:
    """The first reference of each circle, and the circle in words; each circle once."""
    found: dict[frozenset[str], tuple[KeyPath, str]] = {}
    done: set[str] = set()

    def visit(stage: str, trail: list[tuple[str, KeyPath]]) -> None:
        names = [name for name, _ in trail]
        if stage in names:
            circle = trail[names.index(stage) :]
            words = " -> ".join([*(name for name, _ in circle), stage])
            if len(circle) > 1:
                found.setdefault(frozenset(name for name, _ in circle), (circle[0][1], words))
            return
        if stage in done:
            return
        for path, target, _ in references.get(stage, []):
            visit(target, [*trail, (stage, path)])
        done.add(stage)

    for name in references:
        visit(name, [])
    return list(found.values())
