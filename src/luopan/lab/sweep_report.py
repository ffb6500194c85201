"""What a sweep shows: a table of every setting, a picture of every figure, and one page that holds both.

Figures are means over the seeds with their standard error. Diverged trainings are marked and left out of the means;
how many there were is said. Nothing is ranked: which setting is best depends on which figure counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from luopan.artifacts import atomic_write_json, atomic_write_text, versions
from luopan.lab.sweep import Result, Sweep, describe, sweep_folder
from luopan.recipe.lock import dump_yaml
from luopan.recipe.yaml_source import parse_value
from luopan.report.data import (
    BarChart,
    Bars,
    Cell,
    Figure,
    Line,
    LineChart,
    Mark,
    Note,
    Picture,
    RunReport,
    StageReport,
    Table,
)
from luopan.report.numbers import number
from luopan.report.page import render

LOSS = "loss at the end"
PICTURES = 8

Settings = tuple[tuple[str, str], ...]


def by_setting(results: Sequence[Result]) -> dict[Settings, list[Result]]:
    """The results of each setting, seed by seed, in the order of the sweep."""
    found: dict[Settings, list[Result]] = {}
    for result in results:
        found.setdefault(result.trial.settings, []).append(result)
    return found


def figure_names(results: Sequence[Result]) -> list[str]:
    """The figures that every finished trial has, headline ones first, after the loss."""
    known: dict[str, Figure] = {}
    for result in results:
        known |= {name: figure for name, figure in result.figures.items() if figure.after is not None}
    return [LOSS, *sorted(known, key=lambda name: not known[name].headline)]


def values_of(results: Sequence[Result], name: str) -> list[float]:
    """A figure of the trials that did not diverge."""
    sound = [result for result in results if not result.trouble]
    if name == LOSS:
        return [result.loss for result in sound if result.loss is not None]
    figures = [result.figures[name].after for result in sound if name in result.figures]
    return [float(value) for value in figures if value is not None]


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard error; None where there are too few values."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return (fmean(values) if values else None), error


def sweep_table(results: Sequence[Result]) -> Table:
    """A row for each setting: means over its seeds, standard errors beside them, and how many diverged."""
    names = figure_names(results)
    groups = by_setting(results)
    keys = [key for key, _ in next(iter(groups))]
    units = {name: figure.unit for result in results for name, figure in result.figures.items()}
    rows: list[list[Cell]] = []
    for settings, members in groups.items():
        cells: list[Cell] = [value for _, value in settings]
        for name in names:
            cells += mean_and_error(values_of(members, name))
        diverged = sum(bool(member.trouble) for member in members)
        rows.append([*cells, len(members) - diverged, diverged or ""])
    return Table(
        title="Every setting",
        columns=[*keys, *(column for name in names for column in (name, "±")), "seeds", "diverged"],
        units=[*("" for _ in keys), *(units.get(name, "") for name in names for _ in range(2)), "", ""],
        rows=rows,
        caption="Means over the seeds that did not diverge; ± is the standard error of that mean (two seeds or more).",
    )


def short_table(results: Sequence[Result]) -> Table:
    """For a terminal: the loss and the headline figures, each with its standard error in one column."""
    names = [name for name in figure_names(results) if name == LOSS or _headline(results, name)]
    groups = by_setting(results)
    rows: list[list[Cell]] = []
    for settings, members in groups.items():
        cells: list[Cell] = [value for _, value in settings]
        for name in names:
            mean, error = mean_and_error(values_of(members, name))
            cells.append(number(mean, _unit(results, name), error) if mean is not None else "")
        diverged = sum(bool(member.trouble) for member in members)
        rows.append([*cells, f"{diverged} of {len(members)} diverged" if diverged else ""])
    keys = [key for key, _ in next(iter(groups))]
    return Table(title="", columns=[*keys, *names, ""], rows=rows)


def sweep_pictures(sweep: Sweep, results: Sequence[Result]) -> list[Picture]:
    """A picture for each figure: lines over the first axis where its values are numbers, bars where they are words."""
    chosen = [name for name in figure_names(results) if name == LOSS or _headline(results, name)][:PICTURES]
    numbers = _numbers(sweep)
    return [_lines(sweep, results, name, numbers) if numbers is not None else _bars(results, name) for name in chosen]


def _headline(results: Sequence[Result], name: str) -> bool:
    return any(name in result.figures and result.figures[name].headline for result in results)


def _numbers(sweep: Sweep) -> dict[str, float] | None:
    """The first axis' values as numbers, by their text; None where one is no number."""
    values = {text: parse_value(text) for text in sweep.axes[0].values}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
        return {text: float(str(value)) for text, value in values.items()}
    return None


def _lines(sweep: Sweep, results: Sequence[Result], name: str, numbers: Mapping[str, float]) -> LineChart:
    others: dict[Settings, dict[str, list[Result]]] = {}
    for settings, members in by_setting(results).items():
        others.setdefault(settings[1:], {})[settings[0][1]] = members
    lines = []
    for rest, groups in others.items():
        ordered = sorted(groups, key=lambda text: numbers[text])
        found = [(numbers[text], *mean_and_error(values_of(groups[text], name))) for text in ordered]
        label = ", ".join(f"{key}={value}" for key, value in rest) or name
        points = [(x, mean) for x, mean, _ in found]
        lines.append(Line(name=label, points=points, stderr=[error for _, _, error in found]))
    diverged = {
        numbers[settings[0][1]]
        for settings, members in by_setting(results).items()
        if any(member.trouble for member in members)
    }
    positive = [value for value in numbers.values() if value > 0]
    return LineChart(
        title=name,
        lines=lines,
        x_label=sweep.axes[0].path,
        unit=_unit(results, name),
        x_log=len(positive) == len(numbers) and max(positive) / min(positive) >= 10,
        x_marks=[Mark(value=value, label="diverged") for value in sorted(diverged)],
        caption="Mean over the seeds; the band is one standard error." if _seeds(results) > 1 else "One seed.",
    )


def _bars(results: Sequence[Result], name: str) -> BarChart:
    groups = by_setting(results)
    found = [mean_and_error(values_of(members, name)) for members in groups.values()]
    return BarChart(
        title=name,
        categories=[", ".join(f"{key}={value}" for key, value in settings) for settings in groups],
        bars=[Bars(name=name, values=[mean for mean, _ in found], stderr=[error for _, error in found])],
        unit=_unit(results, name),
    )


def _unit(results: Sequence[Result], name: str) -> str:
    return next((result.figures[name].unit for result in results if name in result.figures), "")


def _seeds(results: Sequence[Result]) -> int:
    return max(len(members) for members in by_setting(results).values())


def write_sweep(sweep: Sweep, results: Sequence[Result], runs: Path | str) -> Path:
    """Write `sweep.html` and `sweep.json`; returns the page."""
    folder = sweep_folder(sweep, runs)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / "sweep.json", as_plain(sweep, results))
    troubled = [result for result in results if result.trouble]
    part = StageReport(
        kind="sweep",
        name=sweep.stage,
        summary=f"{len(by_setting(results))} settings of {', '.join(axis.key for axis in sweep.axes)}, "
        f"{_seeds(results)} seeds each. Nothing is picked: which is best depends on the figure that counts.",
        tables=[sweep_table(results)],
        pictures=sweep_pictures(sweep, results),
        notes=[Note(level="bad", text=f"{describe(one.trial)} diverged: {one.trouble}") for one in troubled],
    )
    report = RunReport(
        name=f"{sweep.recipe.recipe.name}: sweep of {sweep.stage}",
        description=", ".join(f"{axis.path}: {', '.join(axis.values)}" for axis in sweep.axes),
        seed=sweep.recipe.recipe.seed,
        created=datetime.now(UTC),
        versions={name: str(value) for name, value in versions().items()},
        stages=[part],
        recipe=dump_yaml(sweep.recipe.written),
    )
    page = folder / "sweep.html"
    atomic_write_text(page, render(report))
    return page


def as_plain(sweep: Sweep, results: Sequence[Result]) -> dict[str, Any]:
    """The sweep as JSON: every trial with its figures, and the means."""
    table = sweep_table(results)
    return {
        "recipe": sweep.recipe.recipe.name,
        "stage": sweep.stage,
        "axes": {axis.path: list(axis.values) for axis in sweep.axes},
        "trials": [
            {
                "stage": result.trial.name,
                "settings": dict(result.trial.settings),
                "seed": result.trial.seed,
                "loss": result.loss,
                "diverged": result.trouble or None,
                "figures": {name: figure.after for name, figure in result.figures.items()},
            }
            for result in results
        ],
        "table": {"columns": table.columns, "rows": [list(row) for row in table.rows]},
    }
