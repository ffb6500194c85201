"""All checks of a recipe, in the order of what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luopan.errors import LuopanError
from luopan.lab.checking.findings import Finding
from luopan.model.config import ModelConfig
from luopan.recipe.load import LoadedRecipe, load_recipe
from luopan.recipe.problems import RecipeProblems


def check_recipe(
    recipe: str | Path | dict[str, Any],
    overrides: tuple[str, ...] = (),
    *,
    runs: Path = Path("runs"),
    quick: bool = False,
    seconds: float = 90.0,
    said: Callable[[str], None] = lambda text: None,
) -> Iterator[Finding]:
    """Findings as they come. `quick`: settings and data only, no model is built and no stage rehearsed."""
    try:
        loaded = load_recipe(recipe, overrides)
    except RecipeProblems as error:
        for problem in error.problems:
            yield Finding("recipe", "bad", str(problem))
        return
    except LuopanError as error:
        yield Finding("recipe", "bad", str(error))
        return
    stages = loaded.recipe.stages
    yield Finding("recipe", "ok", f"{loaded.recipe.name}: {len(stages)} stages, every key is known and has an effect")
    yield from _own_checks(loaded)
    from luopan.lab.checking import data, machine, probes, rehearsal, rules

    yield from rules.look(stages)
    yield from data.look(stages)
    yield from data.overlap(stages)
    yield from machine.look(stages, runs)
    if quick:
        return
    for name, spec in stages.items():
        model = getattr(spec, "model", None)
        if isinstance(model, ModelConfig):
            said(f"probing the model of {name}")
            yield from probes.probe(name, model)
    yield from rehearsal.rehearse(loaded, seconds=seconds, said=said)


def _own_checks(loaded: LoadedRecipe) -> Iterator[Finding]:
    """What stages themselves refuse before they start: devices, packages, skills, files."""
    from luopan.stages.registry import stage_class

    began, bad = time.monotonic(), 0
    for name, spec in loaded.recipe.stages.items():
        own = getattr(stage_class(spec.kind), "check", None)
        if own is None:
            continue
        try:
            own(spec)
        except LuopanError as error:
            bad += 1
            yield Finding("stage", "bad", error.message, error.hint or "", name)
    if not bad:
        yield Finding(
            "stages", "ok", f"devices, packages, skills and options are there ({time.monotonic() - began:.1f} s)"
        )
