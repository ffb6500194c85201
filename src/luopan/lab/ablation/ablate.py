"""Run an ablation, judge it, keep it: table, page, ledger, and the recipe of a change that held.

    runs/<name>/ablations/ablations.md       the ledger, newest last; ablations.json is the same for programs
    runs/<name>/ablations/<id>.html          pictures and tables of one ablation

What was trained already is not trained again, so a killed ablation goes on, and seeds are added to those there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from luopan.artifacts import atomic_write_json, atomic_write_text, read_manifest, versions
from luopan.errors import RecipeError, TrainingError
from luopan.lab.ablation.changes import BASELINE
from luopan.lab.ablation.derive import Ablation
from luopan.lab.ablation.verdicts import Verdict, judge
from luopan.lab.sweep import Result, train_trial
from luopan.lab.sweep import Trial as SweepTrial
from luopan.pipeline.reporter import Reporter
from luopan.recipe.lock import dump_yaml
from luopan.report.data import BarChart, Bars, Figure, Note, RunReport, StageReport, Table
from luopan.report.page import render
from luopan.stages.handover import REPORT_FILE

LEDGER = "ablations"


@dataclass(frozen=True)
class Outcome:
    """What an ablation came to: `metric` decides, `others` are the other figures' verdicts."""

    ablation: Ablation
    metric: Figure
    values: dict[str, list[float | None]]
    verdicts: list[Verdict]
    noise: float
    others: dict[str, list[Verdict]]
    seconds: float
    tokens: int
    flops: float
    date: str
    troubles: tuple[str, ...]


def run_ablation(
    ablation: Ablation,
    *,
    metric: str | None = None,
    runs: Path | str = "runs",
    reporter: Reporter | None = None,
    said: Callable[[str], None] = lambda text: None,
    stage_class: Callable[[str], Any] | None = None,
) -> Outcome:
    """Train every trial that is not trained yet and judge them. RecipeError where the metric is not there, or has no
    better end; TrainingError where the baseline diverged."""
    folder = ablations_folder(ablation, runs)
    results: dict[tuple[str, int], Result] = {}
    reports: list[StageReport] = []
    seconds = 0.0
    for number, trial in enumerate(ablation.trials, start=1):
        said(f"{number} of {len(ablation.trials)}: {trial.arm}, seed {trial.seed}")
        result = train_trial(ablation.recipe, SweepTrial(trial.stage, (), trial.seed),
                             folder / f"{ablation.identity}.lock.yaml", runs=runs, reporter=reporter, said=said,
                             stage_class=stage_class)  # fmt: skip
        results[trial.arm, trial.seed] = result
        if not result.trouble or result.figures:  # it was trained to its end
            stage = folder.parent / trial.stage
            seconds += _taken(stage)
            reports.append(StageReport.model_validate_json((stage / REPORT_FILE).read_text(encoding="utf-8")))
    return _outcome(ablation, results, reports, seconds, metric)


def _taken(folder: Path) -> float:
    """Seconds that a finished stage took, as its manifest says."""
    return float(read_manifest(folder).seconds or 0.0)


def ablations_folder(ablation: Ablation, runs: Path | str) -> Path:
    return Path(runs) / ablation.base.recipe.name / LEDGER


def _outcome(
    ablation: Ablation,
    results: Mapping[tuple[str, int], Result],
    reports: Sequence[StageReport],
    seconds: float,
    metric: str | None,
) -> Outcome:
    troubles = tuple(
        f"{arm}, seed {seed}: {one.trouble}" for (arm, seed), one in results.items() if one.trouble
    )  # fmt: skip
    if any(results[BASELINE, seed].trouble for seed in range(ablation.seeds)):
        raise TrainingError("the baseline diverged", hint="; ".join(troubles))
    known = _figures(results, ablation.seeds)
    chosen = _metric(known, metric)

    def by_arm(name: str) -> dict[str, list[float | None]]:
        return {
            arm.name: [_value(results[arm.name, seed], name) for seed in range(ablation.seeds)] for arm in ablation.arms
        }

    values = by_arm(chosen.name)
    verdicts, noise = judge(values, BASELINE, higher_is_better=bool(chosen.higher_is_better))
    others = {
        name: judge(by_arm(name), BASELINE, higher_is_better=bool(figure.higher_is_better))[0]
        for name, figure in known.items()
        if name != chosen.name and figure.higher_is_better is not None
    }
    return Outcome(
        ablation, chosen, values, verdicts, noise, others,
        seconds=seconds,
        tokens=sum(report.tokens or 0 for report in reports),
        flops=sum(report.flops or 0.0 for report in reports),
        date=datetime.now(UTC).isoformat(timespec="seconds"), troubles=troubles,
    )  # fmt: skip


def _figures(results: Mapping[tuple[str, int], Result], seeds: int) -> dict[str, Figure]:
    """Those that every seed of the baseline has."""
    base = [results[BASELINE, seed].figures for seed in range(seeds)]
    return {
        name: figure
        for name, figure in base[0].items()
        if all(name in one and one[name].after is not None for one in base)
    }


def _metric(known: Mapping[str, Figure], asked: str | None) -> Figure:
    usable = {name: figure for name, figure in known.items() if figure.higher_is_better is not None}
    if asked is not None:
        if asked not in usable:
            raise RecipeError(
                f"there is no figure {asked!r} to judge by", hint=f"There are: {', '.join(usable) or 'none'}"
            )
        return usable[asked]
    headline = [figure for figure in usable.values() if figure.headline] or list(usable.values())
    if not headline:
        raise RecipeError("the stage measures nothing to judge by", hint="Give it held-out text or a suite.")
    return headline[0]


def _value(result: Result, name: str) -> float | None:
    if result.trouble or name not in result.figures or result.figures[name].after is None:
        return None
    return float(result.figures[name].after)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- what is kept


def write_outcome(outcome: Outcome, runs: Path | str) -> Path:
    """The page and the ledger; returns the ledger's Markdown. An ablation that was run before keeps its place."""
    folder = ablations_folder(outcome.ablation, runs)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{LEDGER}.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    mine = entry(outcome)
    places = [place for place, one in enumerate(entries) if one["id"] == mine["id"]]
    if places:
        entries[places[0]] = mine
    else:
        entries.append(mine)
    atomic_write_json(file, entries)
    atomic_write_text(folder / f"{outcome.ablation.identity}.html", render(_page(outcome)))
    ledger = folder / f"{LEDGER}.md"
    atomic_write_text(ledger, ledger_text(outcome.ablation.base.recipe.name, entries))
    return ledger


def entry(outcome: Outcome) -> dict[str, Any]:
    """A line of the ledger, as plain data."""
    ablation = outcome.ablation
    return {
        "id": ablation.identity,
        "date": outcome.date,
        "stage": ablation.stage,
        "metric": outcome.metric.name,
        "unit": outcome.metric.unit,
        "seeds": ablation.seeds,
        "noise": outcome.noise,
        "arms": [
            {
                "name": arm.name,
                "hypothesis": arm.change.hypothesis if arm.change else "",
                "settings": list(arm.settings),
                "resized": arm.resized,
                "parameters": arm.parameters,
                "values": outcome.values[arm.name],
            }
            for arm in ablation.arms
        ],
        "verdicts": [asdict(one) for one in outcome.verdicts],
        "others": {name: [asdict(one) for one in found] for name, found in outcome.others.items()},
        "cost": {"seconds": outcome.seconds, "tokens": outcome.tokens, "flops": outcome.flops},
        "troubles": list(outcome.troubles),
        "versions": {name: str(value) for name, value in versions().items()},
    }


def ledger_text(name: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """The ledger for people."""
    lines = [f"# Ablations of {name}", ""]
    for one in entries:
        lines += [f"## {one['date'][:10]}: {one['stage']} by {one['metric']}", ""]
        lines += ["| arm | hypothesis | change | mean | against the baseline | verdict |", "|---|---|---|---|---|---|"]
        verdicts = {verdict["arm"]: verdict for verdict in one["verdicts"]}
        scale, mark = (100.0, " %") if one["unit"] == "%" else (1.0, f" {one['unit']}".rstrip())
        for arm in one["arms"]:
            known = [value for value in arm["values"] if value is not None]
            mean = f"{scale * fmean(known):.4g}{mark}" if known else ""
            verdict = verdicts.get(arm["name"])
            gap = "" if verdict is None or verdict["difference"] is None else (
                f"{scale * verdict['difference']:+.3g} ± {scale * verdict['stderr']:.2g}"
            )  # fmt: skip
            change = " ".join([*arm["settings"], *([f"(and {arm['resized']})"] if arm["resized"] else [])])
            lines.append(f"| {arm['name']} | {arm['hypothesis']} | `{change}` | {mean} | {gap} | "
                         f"{'' if verdict is None else verdict['outcome']} |")  # fmt: skip
        cost = one["cost"]
        lines += ["", f"{one['seeds']} seeds; noise of the baseline ± {scale * one['noise']:.2g}{mark}; cost "
                      f"{cost['seconds'] / 60:.1f} minutes, {cost['tokens']:,} tokens, {cost['flops']:.2e} FLOPs; "
                      f"[pictures]({one['id']}.html)", ""]  # fmt: skip
        lines += [f"- diverged: {text}" for text in one["troubles"]] + ([""] if one["troubles"] else [])
    return "\n".join(lines)


def outcome_table(outcome: Outcome) -> Table:
    """A row for each arm."""
    verdicts = {one.arm: one for one in outcome.verdicts}
    rows = []
    for arm in outcome.ablation.arms:
        one = verdicts.get(arm.name)
        known = [value for value in outcome.values[arm.name] if value is not None]
        rows.append([
            arm.name, fmean(known) if known else None, None if one is None else one.difference,
            None if one is None else one.stderr, "" if one is None or one.p is None else f"{one.p:.3f}",
            "noise ± " + f"{outcome.noise:.2g}" if one is None else one.outcome,
        ])  # fmt: skip
    unit = outcome.metric.unit
    return Table(
        title=outcome.metric.name,
        columns=["arm", "mean", "difference", "±", "p", "verdict"],
        units=["", unit, unit, unit, "", ""],
        rows=rows,
        caption=f"{outcome.ablation.seeds} seeds, paired; p is multiplied by the number of arms.",
    )


def _page(outcome: Outcome) -> RunReport:
    ablation = outcome.ablation
    means = {name: [v for v in values if v is not None] for name, values in outcome.values.items()}
    errors = {one.arm: one.stderr for one in outcome.verdicts}
    picture = BarChart(
        title=outcome.metric.name,
        categories=list(means),
        bars=[Bars(name=outcome.metric.name, values=[fmean(v) if v else None for v in means.values()],
                   stderr=[errors.get(name, outcome.noise / ablation.seeds**0.5) for name in means])],
        unit=outcome.metric.unit,
        higher_is_better=outcome.metric.higher_is_better,
    )  # fmt: skip
    rows = [
        [name, verdict.arm, verdict.difference, verdict.stderr, verdict.outcome]
        for name, found in outcome.others.items()
        for verdict in found
    ]
    tables = [outcome_table(outcome)]
    if rows:
        tables.append(Table(title="Other figures", columns=["figure", "arm", "difference", "±", "verdict"], rows=rows))
    part = StageReport(
        kind="ablation", name=ablation.stage, tables=tables, pictures=[picture],
        summary=" ".join(one.text(outcome.metric.unit) + "." for one in outcome.verdicts),
        notes=[Note(level="bad", text=text) for text in outcome.troubles],
        seconds=outcome.seconds, flops=outcome.flops, tokens=outcome.tokens,
    )  # fmt: skip
    return RunReport(
        name=f"{ablation.base.recipe.name}: ablation of {ablation.stage}",
        description="; ".join(f"{arm.name}: {' '.join(arm.settings) or 'as it is'}" for arm in ablation.arms),
        seed=ablation.base.recipe.seed,
        created=datetime.now(UTC),
        versions={name: str(value) for name, value in versions().items()},
        stages=[part],
        recipe=dump_yaml(ablation.base.written),
    )


def adopt(outcome: Outcome, file: Path) -> str:
    """Writes the baseline's recipe with the change that held, the one that gained most; returns its name.

    RecipeError where none is better, or the file is there. Changes that held one by one need not add up: the next
    ablation begins from the new baseline.
    """
    better = [one for one in outcome.verdicts if one.outcome == "better" and one.difference is not None]
    if not better:
        raise RecipeError("no change is better than the baseline above noise: nothing to adopt")
    if file.exists():
        raise RecipeError(f"{file} is there already", hint="Choose another name.")
    best = max(better, key=lambda one: abs(one.difference or 0.0))
    arm = next(arm for arm in outcome.ablation.arms if arm.name == best.arm)
    from luopan.recipe.load import load_recipe

    written = load_recipe(
        outcome.ablation.base.written, [*arm.settings, *([arm.resized] if arm.resized else [])]
    ).written
    head = f"# {outcome.date[:10]}: {arm.name} adopted ({best.text(outcome.metric.unit)}).\n"
    atomic_write_text(file, head + dump_yaml(written))
    return arm.name
