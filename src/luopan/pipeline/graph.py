"""The stages of a recipe as a graph: order, what a stage needs, and which stages a command asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luopan.errors import RecipeError
from luopan.recipe.introspect import suggestion
from luopan.recipe.references import read_from

Needs = Mapping[str, tuple[str, ...]]
"""Stage → the stages it reads from directly."""


def needs_of(stages: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What each stage of a checked recipe reads from; raises RecipeError for a stage that there is not."""
    needs = {}
    for name, spec in stages.items():
        named = [target for targets in read_from(spec).values() for target in targets]
        for target in named:
            if target not in stages:
                raise RecipeError(f'stage {name}: unknown stage "{target}"{suggestion(target, stages)}')
        needs[name] = tuple(dict.fromkeys(named))
    return needs


def in_order(needs: Needs) -> list[str]:
    """Every stage after those it needs; where that leaves a choice, in the order of the recipe."""
    order: list[str] = []

    def place(stage: str, trail: tuple[str, ...]) -> None:
        if stage in trail:
            raise RecipeError(f"the stages go round in a circle: {' -> '.join((*trail, stage))}")
        if stage not in order:
            for needed in needs[stage]:
                place(needed, (*trail, stage))
            order.append(stage)

    for stage in needs:
        place(stage, ())
    return order


def with_needs(stages: Iterable[str], needs: Needs) -> set[str]:
    """The stages and everything they need, directly or not."""
    wanted: set[str] = set()
    pending = list(stages)
    while pending:
        stage = pending.pop()
        if stage not in wanted:
            wanted.add(stage)
            pending.extend(needs[stage])
    return wanted


def select(needs: Needs, *, until: str | None, only: Sequence[str], fresh: Sequence[str]) -> list[str]:
    """The stages to bring up to date, in order. Raises RecipeError for an unknown stage or options that disagree."""
    for option, names in (("--until", [until] if until else []), ("--only", only), ("--fresh", fresh)):
        for name in names:
            if name not in needs:
                raise RecipeError(f'{option}: unknown stage "{name}"{suggestion(name, needs, list_up_to=30)}')
    if until and only:
        raise RecipeError("--until and --only exclude each other", hint="Give one of the two.")
    chosen = set(only) or with_needs([until] if until else needs, needs)
    for name in fresh:
        if name not in chosen:
            option = "--until" if until else "--only"
            raise RecipeError(f"--fresh {name} has no effect: {option} leaves that stage out")
    return [stage for stage in in_order(needs) if stage in chosen]
