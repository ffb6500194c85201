"""What a scaling law says: a fit with intervals, a held-out training predicted, pictures, and the way ahead."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from luopan.artifacts import atomic_write_json, atomic_write_text, versions
from luopan.lab.planning.quantities import count_text
from luopan.lab.scaling.fit import Fit, fit_law, fit_power
from luopan.lab.scaling.points import Point
from luopan.report.data import Cell, Line, LineChart, RunReport, StageReport, Table
from luopan.report.page import render

BEYOND = (1, 10, 100)  # times the largest compute: what the law says of them


@dataclass(frozen=True)
class Law:
    """`fit` of `points` without `held_out`, whose loss it predicts; `rate`: (c, x) of learning rate = c · N^x."""

    fit: Fit
    points: list[Point]
    held_out: Point | None
    unit: str
    rate: tuple[float, float] | None

    @property
    def predicted(self) -> tuple[float, float, float] | None:
        return None if self.held_out is None else self.fit.predict(self.held_out.parameters, self.held_out.tokens)

    @property
    def factor(self) -> float:
        """FLOPs of a training over 6 N D: small models spend more, on attention and the head."""
        return float(np.median([point.flops / (6 * point.parameters * point.tokens) for point in self.points]))


def make_law(points: Sequence[Point], unit: str, *, hold_out: bool = True, bootstrap: int = 200) -> Law:
    """Fit all points but the one of most compute, which is predicted. DataError as of `fit_law`."""
    ordered = sorted(points, key=lambda point: point.flops)
    kept, held = (ordered[:-1], ordered[-1]) if hold_out else (ordered, None)
    fit = fit_law([p.parameters for p in kept], [p.tokens for p in kept], [p.loss for p in kept], bootstrap=bootstrap)
    longest: dict[float, Point] = {}
    for point in ordered:
        if point.learning_rate is not None:
            longest[point.parameters] = point
    rate = None
    if len(longest) > 1:
        rates = [point.learning_rate or 0.0 for point in longest.values()]
        rate = fit_power(list(longest), rates)
    return Law(fit, list(ordered), held, unit, rate)


def law_text(law: Law) -> str:
    """For the terminal."""
    one, fit = law.fit.law, law.fit
    spread = {name: fit.interval(name) for name in ("e", "alpha", "beta", "exponent")}
    lines = [
        f"L = {one.e:.4g} + {one.a:.4g} / N^{one.alpha:.3f} + {one.b:.4g} / D^{one.beta:.3f}   "
        f"({fit.points} trainings, off by {100 * fit.error:.2f}% on them)",
        "80% intervals: " + ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in spread.items()),
    ]
    if law.held_out is not None and law.predicted is not None:
        value, low, high = law.predicted
        held = law.held_out
        lines.append(
            f"held out: {count_text(held.parameters)} parameters, {count_text(held.tokens)} tokens: predicted "
            f"{value:.4f} ({low:.4f} to {high:.4f}), measured {held.loss:.4f}: {100 * (value / held.loss - 1):+.2f}%"
        )
    for row in ahead(law):
        lines.append(
            f"{row['flops']:.1e} FLOPs: best {count_text(row['parameters'])} parameters, {count_text(row['tokens'])} "
            f"tokens ({row['tokens'] / row['parameters']:.0f} a parameter): {row['loss']:.4f} {law.unit}".rstrip()
        )
    if law.rate is not None:
        lines.append(f"best learning rate: {law.rate[0]:.3g} · N^{law.rate[1]:.3f}")
    return "\n".join(lines)


def ahead(law: Law) -> list[dict[str, float]]:
    """The best size and tokens for the largest compute of the points, and for more."""
    most = max(point.flops for point in law.points)
    found = []
    for times in BEYOND:
        parameters, tokens = law.fit.law.optimum(times * most / law.factor)
        found.append({
            "flops": times * most, "parameters": parameters, "tokens": tokens,
            "loss": law.fit.law.loss(parameters, tokens),
        })  # fmt: skip
    return found


def as_plain(law: Law) -> dict[str, Any]:
    """Plain data for JSON."""
    names = ("e", "a", "b", "alpha", "beta", "exponent")
    return {
        "law": {key: value for key, value in asdict(law.fit.law).items() if key != "source"},
        "exponent": law.fit.exponent,
        "intervals_80": {name: law.fit.interval(name) for name in names},
        "error": law.fit.error,
        "points": [asdict(point) for point in law.points],
        "held_out": None if law.held_out is None else {
            **asdict(law.held_out), "predicted": law.predicted[0], "interval_80": law.predicted[1:],  # type: ignore[index]
        },
        "ahead": ahead(law),
        "learning_rate": law.rate,
        "unit": law.unit,
    }  # fmt: skip


def pictures(law: Law) -> list[LineChart]:
    """Loss over tokens by size with the law through it; iso-FLOP curves; predicted over measured."""
    sizes = sorted({point.parameters for point in law.points})
    lines, fitted = [], []
    for size in sizes:
        own = sorted((p for p in law.points if p.parameters == size), key=lambda p: p.tokens)
        name = count_text(size)
        lines.append(Line(name=name, points=[(p.tokens, p.loss) for p in own]))
        grid = np.geomspace(own[0].tokens, 3 * own[-1].tokens, 24)
        fitted.append(Line(name=f"law, {name}", points=[(float(d), law.fit.law.loss(size, float(d))) for d in grid]))
    budgets = np.geomspace(min(p.flops for p in law.points), 10 * max(p.flops for p in law.points), 5) / law.factor
    iso = []
    for budget in budgets:
        best, _ = law.fit.law.optimum(float(budget))
        grid = best * np.geomspace(0.1, 10, 25)
        values = [(float(n), law.fit.law.loss(float(n), float(budget) / 6 / float(n))) for n in grid]
        iso.append(Line(name=f"{budget * law.factor:.1e} FLOPs", points=values))
    parity = [(p.loss, law.fit.law.loss(p.parameters, p.tokens)) for p in sorted(law.points, key=lambda p: p.loss)]
    ends = [parity[0][0], parity[-1][0]]
    return [
        LineChart(title="Loss over tokens", lines=[*lines, *fitted], x_label="tokens", unit=law.unit, x_log=True),
        LineChart(title="Equal compute, other sizes (by the law)", lines=iso, x_label="parameters", unit=law.unit,
                  x_log=True),
        LineChart(title="Law over measurement", x_label="measured", unit=law.unit,
                  lines=[Line(name="trainings", points=parity), Line(name="equal", points=[(e, e) for e in ends])]),
    ]  # fmt: skip


def write_law(law: Law, folder: Path, name: str, seed: int | None = None, recipe: str = "") -> Path:
    """`scale.html`, `scale.json`, `points.csv`; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / "scale.json", as_plain(law))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["parameters", "tokens", "flops", "loss", "learning_rate"])
    writer.writerows([p.parameters, p.tokens, p.flops, p.loss, p.learning_rate or ""] for p in law.points)
    atomic_write_text(folder / "points.csv", text.getvalue())
    columns = ["parameters", "tokens", "FLOPs", "measured", "by the law", "off", "held out"]
    rows: list[list[Cell]] = []
    for point in law.points:
        value = law.fit.law.loss(point.parameters, point.tokens)
        rows.append([
            count_text(point.parameters), count_text(point.tokens), f"{point.flops:.2e}", point.loss, value,
            value / point.loss - 1, "yes" if point == law.held_out else "",
        ])  # fmt: skip
    way: list[list[Cell]] = [
        [f"{r['flops']:.1e}", count_text(r["parameters"]), count_text(r["tokens"]), r["loss"]] for r in ahead(law)
    ]
    part = StageReport(
        kind="scaling law", name=name, summary=law_text(law).split("\n")[0],
        pictures=list(pictures(law)),
        tables=[Table(title="Trainings", columns=columns, rows=rows, units=["", "", "", law.unit, law.unit, "%", ""]),
                Table(title="The way ahead", columns=["FLOPs", "parameters", "tokens", "loss"], rows=way)],
        flops=sum(p.flops for p in law.points),
    )  # fmt: skip
    page = folder / "scale.html"
    report = RunReport(
        name=f"{name}: scaling law", created=datetime.now(UTC), seed=seed, stages=[part], recipe=recipe,
        versions={key: str(value) for key, value in versions().items()},
        description="\n".join(law_text(replace(law)).split("\n")[1:]),
    )  # fmt: skip
    atomic_write_text(page, render(report))
    return page
