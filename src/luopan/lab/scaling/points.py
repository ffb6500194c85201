"""The points of a fit: from a family's results, or from a CSV file with parameters, tokens and loss."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luopan.errors import DataError, RecipeError
from luopan.lab.scaling.family import Family, Member
from luopan.lab.scaling.fit import best_of_parabola
from luopan.lab.sweep import Result

NAMES = {
    "parameters": ("parameters", "params", "n", "model_size", "model size"),
    "tokens": ("tokens", "d", "training_tokens", "training tokens"),
    "loss": ("loss", "l", "bits_per_byte", "bits per byte"),
    "flops": ("flops", "c", "compute", "training_flop", "training flop"),
}


@dataclass(frozen=True)
class Point:
    """One training: its size, tokens, FLOPs, loss; `learning_rate` where several were tried."""

    parameters: float
    tokens: float
    flops: float
    loss: float
    learning_rate: float | None = None


def points_of(family: Family, results: Sequence[tuple[Member, Result]], metric: str | None) -> tuple[list[Point], str]:
    """(a point for every size and number of tokens, the figure's name). Of several learning rates the best training
    counts, and the rate is the minimum of a parabola through them. Diverged trainings are left out."""
    figures = next((result.figures for _, result in results if not result.trouble), None)
    if figures is None:
        raise DataError("every training diverged", hint="A lower learning rate: the recipe's, or --factors 0.5,0.25")
    usable = [name for name, figure in figures.items() if figure.higher_is_better is False and figure.after is not None]
    if metric is not None and metric not in usable:
        raise RecipeError(f"there is no figure {metric!r} that falls", hint=f"There are: {', '.join(usable) or 'none'}")
    if not usable:
        raise RecipeError("the stage measures nothing that falls: no law can be fitted")
    chosen = metric or usable[0]
    groups: dict[tuple[int, int], list[tuple[Member, float]]] = {}
    for member, result in results:
        if result.trouble or chosen not in result.figures or result.figures[chosen].after is None:
            continue
        value = float(result.figures[chosen].after)  # type: ignore[arg-type]
        groups.setdefault((member.parameters, member.tokens), []).append((member, value))
    points = []
    for (parameters, tokens), tried in groups.items():
        best = min(value for _, value in tried)
        rates = [member.learning_rate for member, _ in tried]
        rate = best_of_parabola(rates, [value for _, value in tried]) if len(tried) > 1 else None
        points.append(Point(parameters, tokens, tried[0][0].flops(family.length), best, rate))
    return points, chosen


def read_points(file: Path) -> list[Point]:
    """Points of a CSV file: columns parameters, tokens (or flops) and loss, under these or their usual names."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the points cannot be read: {error}", where=file) from None
    if not rows:
        raise DataError("there are no points", where=file, hint="a header and a line for each training")
    columns = {
        key: next((column for column in rows[0] if column and column.strip().lower() in names), None)
        for key, names in NAMES.items()
    }
    if columns["parameters"] is None or columns["loss"] is None or not (columns["tokens"] or columns["flops"]):
        raise DataError(
            f"the columns are {', '.join(map(str, rows[0]))}", where=file, hint="parameters, tokens (or flops), loss"
        )
    points = []
    for number, row in enumerate(rows, start=2):
        try:
            size, loss = (float(row[columns[key]]) for key in ("parameters", "loss"))  # type: ignore[index]
            flops = float(row[columns["flops"]]) if columns["flops"] else None
            tokens = float(row[columns["tokens"]]) if columns["tokens"] else float(flops or 0) / (6 * size)
        except (TypeError, ValueError, ZeroDivisionError):
            raise DataError("not a point: " + ", ".join(map(str, row.values())), where=f"{file}:{number}") from None
        points.append(Point(size, tokens, flops if flops is not None else 6 * size * tokens, loss))
    return points
