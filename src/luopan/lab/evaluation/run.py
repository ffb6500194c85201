"""Asks models the same rows of the same tasks and sets their figures side by side.

Rows are read before a model is loaded, so a missing file costs no time. The first model is what the others are
compared with, row by row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luopan.artifacts.files import atomic_write_json, atomic_write_text
from luopan.errors import RecipeError
from luopan.evals.tasks.config import GenerateTask, Task
from luopan.evals.tasks.figures import Difference, Figure, Result, paired
from luopan.evals.tasks.rows import Row
from luopan.evals.tasks.shipped import identity_of, load_task, rows_of, run_task, with_data
from luopan.evals.tasks.written import writer
from luopan.lab.evaluation.endpoint import endpoint_writer, is_endpoint


@dataclass(frozen=True)
class Planned:
    """A task with its rows; paths in it are meant from `folder`."""

    task: Task
    rows: Sequence[Row] = field(repr=False)
    folder: Path | None = None


@dataclass(frozen=True)
class Settings:
    """limit: rows per task. data: a folder in which NAME.jsonl and the like stand in for a task's own rows. The others
    change what the tasks of kind generate say."""

    limit: int | None = None
    data: Path | None = None
    seed: int = 0
    chat: bool | None = None
    thinking: bool | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    include_path: Path | None = None
    api_key_env: str | None = None


@dataclass(frozen=True)
class Evaluated:
    """One model's results, in the order of the tasks."""

    model: str
    results: list[Result]


def plan(names: Sequence[str], settings: Settings) -> list[Planned]:
    """Read the tasks and their rows."""
    found = []
    for name in names:
        task, folder = load_task(name)
        task = with_data(changed(task, settings), settings.data)
        found.append(Planned(task, rows_of(task, folder, settings.limit), folder))
    if twice := {one.task.name for one in found if [other.task.name for other in found].count(one.task.name) > 1}:
        raise RecipeError(f"two tasks are called {sorted(twice)[0]!r}: give one another name")
    return found


def changed(task: Task, settings: Settings) -> Task:
    """The task with what the command line says."""
    told = {name: getattr(settings, name) for name in ("chat", "thinking", "max_new_tokens", "temperature")}
    told = {name: value for name, value in told.items() if value is not None}
    if not told or not isinstance(task, GenerateTask):
        return task
    try:
        return GenerateTask.model_validate({**task.model_dump(exclude_unset=True), **told})
    except ValueError as error:
        said = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())  # type: ignore[attr-defined]
        raise RecipeError(said, where=task.name) from None


def evaluate_tasks(
    models: Sequence[str],
    names: Sequence[str],
    harness: Sequence[str] = (),
    settings: Settings | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Evaluated]:
    """The results of every model on every task; `harness` names tasks of lm-evaluation-harness."""
    settings = settings or Settings()
    planned = plan(names, settings)
    return [Evaluated(model, _one_model(model, planned, harness, settings, say)) for model in models]


def _one_model(
    model: str, planned: Sequence[Planned], harness: Sequence[str], settings: Settings, say: Callable[[str], None]
) -> list[Result]:
    if is_endpoint(model):
        if harness:
            raise RecipeError("tasks of lm_eval need a model that is here, not an endpoint", where=model)
        write, weights, tokenizer = endpoint_writer(model, settings.api_key_env), None, None
    else:
        from luopan.pipeline.models import text_generator

        generator = text_generator(model)
        write, weights, tokenizer = writer(generator), generator.model, generator.tokenizer
    results = []
    for one in planned:
        say(f"{model}: {one.task.name}, {len(one.rows)} rows")
        found: Result = run_task(
            one.task, one.rows, one.folder, model=weights, tokenizer=tokenizer, write=write, seed=settings.seed
        )
        results.append(Result(**{**vars(found), "identity": identity_of(one.task, one.rows)}))
    if harness:
        from luopan.lab.evaluation.harness import run_harness

        say(f"{model}: lm_eval, {', '.join(harness)}")
        results += run_harness(generator, harness, settings.limit, settings.include_path)
    return results


def differences(found: Sequence[Evaluated]) -> list[dict[str, tuple[str, Difference]]]:
    """For every model after the first, by task: the main figure's name and how it differs from the first model's."""
    base = {result.task: result for result in found[0].results}
    return [
        {
            result.task: (result.main, difference)
            for result in one.results
            if (difference := _difference(base[result.task], result, result.main)) is not None
        }
        for one in found[1:]
    ]


def _difference(base: Result, result: Result, name: str) -> Difference | None:
    if base.identity != result.identity or name not in base.figures:
        return None
    return paired(base.figures[name], result.figures[name])


def table(found: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: each task's main figure first, then its others; a * where a difference is beyond two standard
    errors."""
    titles = ["task", "figure", "n", "chance"]
    for at, one in enumerate(found):
        titles += [one.model, "±"] + (["difference", "±"] if at else [])
    rows = []
    for place, first in enumerate(found[0].results):
        names = [first.main, *(name for name in first.figures if name != first.main)]
        for name in names:
            figure = first.figures[name]
            cells = [first.task if name == first.main else "", name, str(figure.n), _number(figure.chance)]
            for at, one in enumerate(found):
                result = one.results[place]
                mine: Figure | None = result.figures.get(name)
                cells += [_number(mine.value), _number(mine.stderr)] if mine else ["", ""]
                if at:
                    apart = _difference(first, result, name) if mine else None
                    star = "*" if apart and apart.clear else ""
                    cells += [f"{apart.value:+.3g}{star}", _number(apart.stderr)] if apart else ["", ""]
            rows.append(cells)
    return titles, rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def to_json(found: Sequence[Evaluated]) -> dict[str, Any]:
    """Figures of all models and their differences, without the rows."""
    apart = [
        {
            "model": one.model, "to": found[0].model,
            "tasks": {name: {"figure": figure, **value.to_json()} for name, (figure, value) in by_task.items()},
        }
        for one, by_task in zip(found[1:], differences(found))
    ]  # fmt: skip
    models = [{"model": one.model, "tasks": [result.to_json() for result in one.results]} for one in found]
    return {"models": models, "differences": apart}


def write_out(found: Sequence[Evaluated], folder: Path) -> None:
    """`results.json`, and for each model and task `rows/NUMBER-TASK.jsonl`, numbered as the models are."""
    for at, one in enumerate(found, 1):
        for result in one.results:
            name = re.sub(r"[^\w.-]+", "_", result.task)
            lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in result.rows]
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            atomic_write_text(folder / "rows" / f"{at}-{name}.jsonl", "".join(lines))
    atomic_write_json(folder / "results.json", to_json(found))
