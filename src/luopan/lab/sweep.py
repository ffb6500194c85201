"""One stage of a recipe with several settings and seeds, everything before it made once.

A sweep is a recipe: the stage is copied once for every setting and seed, under a name that says which, into the run
that the recipe has anyway. So what comes before is shared with `luopan run`, an interrupted sweep goes on, and what
another sweep has trained already is not trained again. All settings of one seed number draw the same random numbers;
seed number 0 are those of the stage itself.

It shows and picks nothing. Limits: the stages before are made with one seed, so the spread is that of the swept stages
alone; settings are crossed with each other, nothing is searched.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luopan.artifacts import plain, stable_hash
from luopan.errors import Interrupted, RecipeError, TrainingError
from luopan.pipeline.graph import needs_of, select
from luopan.pipeline.identity import stage_seed
from luopan.pipeline.reporter import QuietReporter, Reporter
from luopan.pipeline.run import run
from luopan.recipe.load import LoadedRecipe, load_recipe
from luopan.recipe.overrides import child_at
from luopan.recipe.yaml_source import parse_value
from luopan.report.data import Figure, StageReport
from luopan.stages.handover import REPORT_FILE
from luopan.train.tracking import read_metrics

SWEPT_KINDS = (
    "pretrain", "midtrain", "sft", "preference", "reward", "grpo", "ppo", "online_dpo", "rejection", "distill",
)  # fmt: skip
LAST_LINES = 5  # of the metrics: their mean is the loss that a training ended with


@dataclass(frozen=True)
class Axis:
    """A key of a stage and the values it takes, as text."""

    stage: str
    key: str
    values: tuple[str, ...]

    @property
    def path(self) -> str:
        """As an override names it."""
        return f"{self.stage}.{self.key}"


@dataclass(frozen=True)
class Trial:
    """One training: its stage in the run, its settings by key, its seed number."""

    name: str
    settings: tuple[tuple[str, str], ...]
    seed: int


@dataclass(frozen=True)
class Result:
    """What became of a trial. `trouble` says why it counts as diverged, "" if it does not."""

    trial: Trial
    figures: Mapping[str, Figure] = field(default_factory=dict)
    loss: float | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Sweep:
    """A planned sweep: `recipe` holds every trial as a stage of its own."""

    stage: str
    axes: tuple[Axis, ...]
    trials: tuple[Trial, ...]
    recipe: LoadedRecipe

    @property
    def identity(self) -> str:
        """Short, of what is swept; a sweep with other values is another one."""
        return stable_hash([[axis.path, list(axis.values)] for axis in self.axes])[:10]


def parse_axis(text: str) -> Axis:
    """`sft.learning_rate=1e-6,3e-6` as an axis; RecipeError where it is none. Commas within brackets do not count."""
    left, equals, right = text.partition("=")
    stage, dot, key = left.strip().partition(".")
    if not (equals and dot and stage and key):
        raise RecipeError(
            f'"{text}" is no axis of a sweep', hint="Write STAGE.KEY=VALUE,VALUE, such as sft.learning_rate=1e-5,3e-5"
        )
    values = tuple(part.strip() for part in split_values(right))
    if not all(values):
        raise RecipeError(f'"{text}" has an empty value')
    meant = [repr(parse_value(value)) for value in values]
    if doubled := [value for value, one in zip(values, meant) if meant.count(one) > 1]:
        raise RecipeError(f'"{text}" has {doubled[0]} twice')
    return Axis(stage, key, values)


def split_values(text: str) -> list[str]:
    """Text at the commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in ")}]":
            depth -= 1
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def plan_sweep(recipe: str | Path | Mapping[str, Any], settings: Sequence[str], seeds: int = 1) -> Sweep:
    """The sweep that `settings` ask for: those with several values are its axes, the others plain overrides.

    Raises RecipeError: no axis, axes of two stages, a stage that trains nothing, a setting that the recipe refuses.
    """
    if seeds < 1:
        raise RecipeError(f"seeds is {seeds}, it must be at least 1")
    several = [text for text in settings if len(split_values(text.partition("=")[2])) > 1]
    axes = tuple(parse_axis(text) for text in several)
    if not axes:
        raise RecipeError(
            "there is nothing to sweep: no setting has several values",
            hint="Write them with commas: sft.learning_rate=1e-6,3e-6,1e-5",
        )
    if len({axis.path for axis in axes}) < len(axes):
        raise RecipeError("a key is swept twice", hint="Give all its values in one setting.")
    base = load_recipe(recipe, [text for text in settings if text not in several])
    stage = _swept_stage(base, axes)
    trials: list[Trial] = []
    specs: dict[str, Any] = {}
    for chosen in itertools.product(*(axis.values for axis in axes)):
        given = load_recipe(base.written, [f"{axis.path}={value}" for axis, value in zip(axes, chosen)])
        written = given.written["stages"][stage]
        if child_at(written, ("seed",)) is not None and seeds > 1:
            raise RecipeError(f"stages.{stage}.seed is fixed, so all seeds would be alike", hint="Leave the key out.")
        for seed in range(seeds):
            own = tuple((axis.key, value) for axis, value in zip(axes, chosen))
            trial = Trial(_name(stage, own, seed, set(specs)), own, seed)
            trials.append(trial)
            fixed = {"seed": stage_seed(base.recipe.seed + seed, stage)} if "seed" not in written else {}
            specs[trial.name] = {**copy.deepcopy(written), **fixed}
    before = [name for name in select(needs_of(base.recipe.stages), until=stage, only=(), fresh=()) if name != stage]
    stages = {name: base.written["stages"][name] for name in before} | specs
    derived = {**plain(base.written), "stages": stages}
    return Sweep(stage, axes, tuple(trials), load_recipe(derived))


def _swept_stage(base: LoadedRecipe, axes: Sequence[Axis]) -> str:
    named = list(dict.fromkeys(axis.stage for axis in axes))
    if len(named) > 1:
        raise RecipeError(
            f"a sweep varies one stage, and the settings name {' and '.join(named)}", hint="Sweep one after the other."
        )
    stage = named[0]
    if stage not in base.recipe.stages:
        known = ", ".join(name for name, spec in base.recipe.stages.items() if spec.kind in SWEPT_KINDS)
        raise RecipeError(f'there is no stage "{stage}"', hint=f"Stages that train: {known}")
    kind = base.recipe.stages[stage].kind
    if kind not in SWEPT_KINDS:
        raise RecipeError(f'stage "{stage}" is of kind {kind}, which trains nothing')
    return stage


def _name(stage: str, settings: Sequence[tuple[str, str]], seed: int, taken: set[str]) -> str:
    """A stage's name that says what is set: letters, digits, - and _ alone, so it can be a folder."""
    said = "-".join(re.sub(r"[^A-Za-z0-9]+", "_", f"{key}_{value}").strip("_") for key, value in settings)
    base = f"{stage}--{said[:80]}--s{seed}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def run_sweep(
    sweep: Sweep,
    *,
    runs: Path | str = "runs",
    reporter: Reporter | None = None,
    said: Callable[[str], None] = lambda text: None,
    stage_class: Callable[[str], Any] | None = None,
) -> list[Result]:
    """Train every trial that is not trained yet. One that cannot be trained to its end is kept as diverged.

    Raises LuopanError for what has nothing to do with a trial's settings, `Interrupted` on Ctrl-C (run it again).
    """
    folder = sweep_folder(sweep, runs)
    results = []
    for number, trial in enumerate(sweep.trials, start=1):
        said(f"trial {number} of {len(sweep.trials)}: {describe(trial)}")
        results.append(
            train_trial(
                sweep.recipe,
                trial,
                folder / "recipe.lock.yaml",
                runs=runs,
                reporter=reporter,
                said=said,
                stage_class=stage_class,
            )
        )
    return results


def train_trial(
    recipe: LoadedRecipe,
    trial: Trial,
    lock_file: Path,
    *,
    runs: Path | str,
    reporter: Reporter | None,
    said: Callable[[str], None],
    stage_class: Callable[[str], Any] | None,
) -> Result:
    """What became of a trial, trained now unless it is already; of sweeps, ablations and families alike."""
    try:
        done = run(
            recipe,
            until=trial.name,
            runs=runs,
            reporter=reporter or QuietReporter(),
            stage_class=stage_class,
            lock_file=lock_file,
        )
    except Interrupted:
        raise
    except TrainingError as error:
        said(f"  {trial.name} is given up: {error.message}")
        return Result(trial, trouble=error.message)
    return read_result(trial, done.stage(trial.name))


def sweep_folder(sweep: Sweep, runs: Path | str) -> Path:
    """Where a sweep's results are kept."""
    return Path(runs) / sweep.recipe.recipe.name / "sweeps" / f"{sweep.stage}-{sweep.identity}"


def describe(trial: Trial) -> str:
    """A trial in words."""
    return ", ".join([*(f"{key}={value}" for key, value in trial.settings), f"seed {trial.seed}"])


def read_result(trial: Trial, folder: Path) -> Result:
    """What a finished trial's stage has left."""
    report = StageReport.model_validate_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    known = [value for value in losses if value is not None and math.isfinite(value)]
    loss = sum(known[-LAST_LINES:]) / len(known[-LAST_LINES:]) if known else None
    return Result(trial, {figure.name: figure for figure in report.figures}, loss, _trouble(losses, loss))


def _trouble(losses: Sequence[float | None], loss: float | None) -> str:
    """Why a finished training counts as diverged, "" if it does not."""
    if loss is None:
        return "no step had a finite loss" if losses else ""
    first = losses[0]
    if losses[-1] is None or not math.isfinite(losses[-1]):
        return "the loss at the end is not finite"
    if first is not None and math.isfinite(first) and len(losses) > LAST_LINES and loss > first:
        return f"the loss rose from {first:.3g} to {loss:.3g}"
    return ""
