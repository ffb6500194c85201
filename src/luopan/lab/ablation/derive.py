"""The recipe of an ablation: every arm and seed a copy of the stages that it touches, everything else made once.

Arms are the baseline and one for each change (or, leaving one out, all changes together and all but one). The stages
from the first that any change touches up to the one that is measured are copied for each arm; those with random numbers
also for each seed, the same seeds in all arms, so that arms are compared pair by pair. A change of shape that makes the
model larger or smaller is refused until it is said whether the other arms' size is to be kept (`match="parameters"`:
`intermediate_size` is changed for it) or not (`match="nothing"`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luopan.artifacts import plain, stable_hash
from luopan.errors import RecipeError
from luopan.lab.ablation.changes import BASELINE, Change
from luopan.lab.sweep import SWEPT_KINDS
from luopan.model.config import ModelConfig
from luopan.pipeline.graph import in_order, needs_of, with_needs
from luopan.pipeline.identity import stage_seed
from luopan.recipe.load import LoadedRecipe, load_recipe
from luopan.recipe.references import references_in

Match = Literal["parameters", "nothing"]
SAME_SIZE = 0.01  # of the parameters: below, sizes count as equal
GRAIN = 8  # of the inner width


@dataclass(frozen=True)
class Arm:
    """`settings` are those of the arm's changes, `resized` what was added to keep the size."""

    name: str
    settings: tuple[str, ...]
    change: Change | None = None
    resized: str = ""
    parameters: int | None = None


@dataclass(frozen=True)
class Trial:
    """One training: its arm, its seed number, and its stage in the derived recipe."""

    arm: str
    seed: int
    stage: str


@dataclass(frozen=True)
class Ablation:
    """A planned ablation. `recipe` holds every trial; `base` is what it was derived from."""

    stage: str
    arms: tuple[Arm, ...]
    trials: tuple[Trial, ...]
    recipe: LoadedRecipe
    base: LoadedRecipe
    copied: tuple[str, ...]

    @property
    def seeds(self) -> int:
        return len({trial.seed for trial in self.trials})

    @property
    def identity(self) -> str:
        return stable_hash([self.stage, [[arm.name, list(arm.settings), arm.resized] for arm in self.arms]])[:10]


def plan_ablation(
    recipe: str | Path | Mapping[str, Any],
    changes: Sequence[Change],
    *,
    stage: str | None = None,
    seeds: int = 3,
    several: bool = False,
    match: Match | None = None,
    leave_one_out: bool = False,
) -> Ablation:
    """See the module. `stage` is what is measured; default: the last that a change names. RecipeError for what cannot
    be compared."""
    _check(changes, seeds, several, leave_one_out)
    base = load_recipe(recipe)
    arms = _sized(base, _arms(changes, leave_one_out), match)
    specs = {
        arm.name: load_recipe(base.written, [*arm.settings, *([arm.resized] if arm.resized else [])]) for arm in arms
    }
    order = in_order(needs_of(base.recipe.stages))
    changed = _changed_stages(base, specs)
    if not changed:
        raise RecipeError("no setting changes anything: the recipe has these values already")
    stage = stage or max(changed, key=order.index)
    copied = _copied(base, changed, stage, order)
    stages: dict[str, Any] = {
        name: copy.deepcopy(base.written["stages"][name])
        for name in order
        if name in with_needs([stage], needs_of(base.recipe.stages)) and name not in copied
    }
    trials = []
    for arm in arms:
        written = specs[arm.name].written["stages"]
        for seed in range(seeds):
            stages |= _copies(specs[arm.name], written, arm.name, seed, copied, base.recipe.seed)
            trials.append(Trial(arm.name, seed, _name(stage, arm.name, seed, base.recipe.stages[stage])))
    derived = {**plain(base.written), "stages": stages}
    return Ablation(stage, tuple(arms), tuple(trials), load_recipe(derived), base, tuple(copied))


def _check(changes: Sequence[Change], seeds: int, several: bool, leave_one_out: bool) -> None:
    if not changes:
        raise RecipeError("an ablation needs a change", hint="luopan ablate my.yaml pretrain.model.qk_norm=true")
    names = [change.name for change in changes]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"two changes are called {doubled[0]}", hint="Give them names: NAME:stage.key=value")
    if seeds < 2:
        raise RecipeError(
            f"seeds is {seeds}: without a second one a difference cannot be told from chance",
            hint="Take 3 or more; luopan sweep shows single trainings.",
        )
    if leave_one_out and len(changes) < 2:
        raise RecipeError("leaving one out needs two changes or more")
    for change in changes:
        if len(change.settings) > 1 and not several:
            raise RecipeError(
                f"{change.name} changes {len(change.settings)} settings at once: {', '.join(change.settings)}",
                hint="One change at a time says what did it; --several allows it for settings that belong together.",
            )


def _arms(changes: Sequence[Change], leave_one_out: bool) -> list[Arm]:
    if not leave_one_out:
        return [Arm(BASELINE, ()), *(Arm(change.name, change.settings, change) for change in changes)]
    everything = tuple(setting for change in changes for setting in change.settings)
    rest = {
        change.name: tuple(s for other in changes if other is not change for s in other.settings) for change in changes
    }
    return [Arm(BASELINE, everything), *(Arm(f"without-{c.name}", rest[c.name], c) for c in changes)]


def _sized(base: LoadedRecipe, arms: Sequence[Arm], match: Match | None) -> list[Arm]:
    """The arms with their sizes, those of another size than the baseline's brought to it where that is asked for."""
    first = load_recipe(base.written, arms[0].settings)
    wanted = {name: config.num_parameters() for name, config in _models(first).items()}
    found = []
    for arm in arms:
        loaded = load_recipe(base.written, arm.settings)
        resized, total = "", 0
        for name, config in _models(loaded).items():
            total += config.num_parameters()
            if abs(config.num_parameters() / wanted[name] - 1) <= SAME_SIZE:
                continue
            if match is None:
                raise RecipeError(
                    f"{arm.name} makes the model of {name} {config.num_parameters():,} parameters, the baseline has "
                    f"{wanted[name]:,}: a larger model is better without a reason of its own",
                    hint="--match parameters keeps the size by the inner width; --match nothing compares as it is.",
                )
            if match == "parameters":
                resized = f"{name}.model.intermediate_size={_inner_width(config, wanted[name], arm.name)}"
        found.append(Arm(arm.name, arm.settings, arm.change, resized, total or None))
    return found


def _models(loaded: LoadedRecipe) -> dict[str, ModelConfig]:
    specs = loaded.recipe.stages
    return {name: spec.model for name, spec in specs.items() if isinstance(getattr(spec, "model", None), ModelConfig)}


def _inner_width(config: ModelConfig, wanted: int, arm: str) -> int:
    """The `intermediate_size` with which the model has the wanted size."""
    per = (
        config.model_copy(update={"intermediate_size": config.intermediate_size + 1}).num_parameters()
        - config.num_parameters()
    )
    if per <= 0:
        raise RecipeError(f"the size of {arm} does not depend on intermediate_size", hint="--match nothing")
    width = round((config.intermediate_size + (wanted - config.num_parameters()) / per) / GRAIN) * GRAIN
    if width < GRAIN:
        raise RecipeError(f"{arm} is too large to be brought to {wanted:,} parameters", hint="--match nothing")
    return width


def _changed_stages(base: LoadedRecipe, specs: Mapping[str, LoadedRecipe]) -> set[str]:
    """Stages that differ between arms."""
    return {
        name
        for name in base.recipe.stages
        if len({stable_hash(plain(one.recipe.stages[name])) for one in specs.values()}) > 1
        or any(one.recipe.stages[name] != base.recipe.stages[name] for one in specs.values())
    }


def _copied(base: LoadedRecipe, changed: set[str], stage: str, order: Sequence[str]) -> list[str]:
    """Stages that each arm has a copy of: what a change touches, and what comes of it up to the measured one."""
    needs = needs_of(base.recipe.stages)
    if stage not in needs:
        raise RecipeError(f'there is no stage "{stage}"', hint=", ".join(order))
    if base.recipe.stages[stage].kind not in SWEPT_KINDS:
        raise RecipeError(f'stage "{stage}" is of kind {base.recipe.stages[stage].kind}, which trains nothing')
    wanted = with_needs([stage], needs)
    if idle := changed - wanted:
        raise RecipeError(f"a change of {sorted(idle)[0]} has no effect on {stage}", hint="Name another stage: --stage")
    touched = set(changed) | {stage}
    for name in order:
        if any(needed in touched for needed in needs[name]):
            touched.add(name)
    return [name for name in order if name in touched and name in wanted]


def _copies(
    loaded: LoadedRecipe, written: Mapping[str, Any], arm: str, seed: int, copied: Sequence[str], base_seed: int
) -> dict[str, Any]:
    """The copied stages of one arm and seed, their references turned to each other."""
    from luopan.recipe.specs import Recipe

    named = references_in(Recipe, loaded.written)
    stages: dict[str, Any] = {}
    for name in copied:
        spec = copy.deepcopy(dict(written[name]))
        for path, target, _ in named[name]:
            if target in copied:
                _set(spec, path[2:], _name(target, arm, seed, loaded.recipe.stages[target]))
        if _seeded(loaded.recipe.stages[name]):
            if spec.get("seed") is not None:
                raise RecipeError(
                    f"stages.{name}.seed is fixed, so all seeds would be alike", hint="Leave the key out."
                )
            spec["seed"] = stage_seed(base_seed + seed, name)
        stages[_name(name, arm, seed, loaded.recipe.stages[name])] = spec
    return stages


def _set(spec: Any, path: Sequence[Any], value: str) -> None:
    for key in path[:-1]:
        spec = spec[key]
    spec[path[-1]] = value


def _seeded(spec: Any) -> bool:
    return "seed" in type(spec).model_fields


def _name(stage: str, arm: str, seed: int, spec: Any) -> str:
    return f"{stage}--{arm}--s{seed}" if _seeded(spec) else f"{stage}--{arm}"
