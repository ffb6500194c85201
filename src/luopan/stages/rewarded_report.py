"""What a stage that learns from rollouts has to show: figures before and after, curves of what was held out and of the
parts of the reward, and what the watch saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luopan.evals.skills import standard_error
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.report.data import Figure, Line, LineChart, Note, Picture
from luopan.rl.held_out import summary
from luopan.rl.watch import Alarm
from luopan.stages.measure import suite_figures
from luopan.train.tracking import read_metrics


def figures_of(spec: OnPolicySpec, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    """Held-out prompts first, then the suite, then how long answers are."""
    trained = {task.skill for task in spec.tasks}
    headline = [test.name for test in spec.suite.tests if test.skill in trained]
    figures = suite_figures(dict(before), dict(after), headline=(*headline, "skills, mean"))
    sampled = f"mean of {spec.test_samples} answers at temperature {spec.temperature:g}, as in training"
    graded = [key for key in ("sampled", "rewards") if any(value is not None for value in after.get(key, []))]
    # What is trained is the headline: what is right, or the reward where being right earns nothing.
    ruled = not spec.rewards or any(part.kind == "verifier" and part.weight for part in spec.rewards)
    first = graded[0] if graded and (ruled or "rewards" not in graded) else "rewards"
    held = [
        _sampled(spec, before, after, key, f"held-out prompts of the tasks, {sampled}", headline=key == first)
        for key in sorted(graded, key=lambda key: key != first)
    ]
    tasks = list(dict.fromkeys(after.get("tasks", [])))
    if len(tasks) > 1:
        held += [_of_task(before, after, task, f"held-out prompts of {task}, {sampled}") for task in tasks]
    held += parts_of(spec, before, after, f"held-out prompts of the tasks, {sampled}")
    tokens = [(result["total"] or {}).get("mean_tokens") or result.get("length") for result in (before, after)]
    return [*held, *figures, Figure(name="answer length", before=tokens[0], after=tokens[1], unit="tokens",
                                    higher_is_better=None, headline=False)]  # fmt: skip


def _sampled(
    spec: OnPolicySpec, before: Mapping[str, Any], after: Mapping[str, Any], key: str, help: str, *, headline: bool
) -> Figure:
    name = {"sampled": "verifier accuracy, sampled", "rewards": "reward on held-out prompts"}[key]
    return _figure(name, known(before.get(key, [])), known(after[key]), "%" if key == "sampled" else "", help, headline)


def parts_of(spec: OnPolicySpec, before: Mapping[str, Any], after: Mapping[str, Any], help: str) -> list[Figure]:
    """A figure for each part of the reward that is not the verifier or all of it; one of weight 0 is watched."""
    weighed = [part.name for part in spec.rewards if part.weight]
    found = []
    for part in spec.rewards:
        new = known(after.get("parts", {}).get(part.name, []))
        if not new or weighed == [part.name]:
            continue
        old = known(before.get("parts", {}).get(part.name, []))
        unit = "%" if part.kind in ("check", "format") else ""
        watched = part.weight == 0
        text = f"{help}; {'watched, not rewarded' if watched else f'rewarded with weight {part.weight:g}'}"
        found.append(_figure(f"{part.name}, sampled", old, new, unit, text, watched))
    return found


def _of_task(before: Mapping[str, Any], after: Mapping[str, Any], task: str, help: str) -> Figure:
    old, new = (
        known([value for value, name in zip(result.get("sampled", []), result.get("tasks", [])) if name == task])
        for result in (before, after)
    )
    return _figure(f"{task}, sampled", old, new, "%", help, False)


def _figure(name: str, old: Sequence[float], new: Sequence[float], unit: str, help: str, headline: bool) -> Figure:
    return Figure(
        name=name, before=_mean(old), after=_mean(new), unit=unit, stderr_before=standard_error(old),
        stderr_after=standard_error(new), n=len(new), help=help, headline=headline,
    )  # fmt: skip


def known(values: Sequence[float | None]) -> list[float]:
    """Those that could be graded."""
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


# ---- curves, and what they say ----


def told_lines(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any], steps: int) -> list[dict[str, Any]]:
    """The lines of metrics, with what was measured on held-out prompts before and after them."""
    lines = [line for line in read_metrics(folder) if int(line["step"]) <= steps]
    if lines and int(lines[-1]["step"]) == steps:
        lines[-1] = {**lines[-1], **summary(after)}
    return [{"step": 0, **summary(before)}, *lines]


def alarm_notes(alarms: Sequence[Alarm]) -> list[Note]:
    """Warnings for the report."""
    return [Note(text=f"From step {alarm.step}: {alarm.text}", level="warning") for alarm in alarms]


def pictures_of(lines: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Held-out prompts over the training with their standard errors, and the parts of the reward in one picture."""
    found: list[Picture] = []
    for key, title, unit in (
        ("accuracy", "Held-out prompts, verifier accuracy", "%"),
        ("reward", "Held-out prompts, reward", ""),
    ):
        name = f"held_out/{key}"
        told = [line for line in lines if name in line]
        if len(told) < 2:
            continue
        points = [(float(line["step"]), float(line[name])) for line in told]
        errors = [float(line.get(f"{name}_stderr", 0.0)) for line in told]
        caption = "Answers sampled as in training; the band is one standard error over prompts."
        line = Line(name="held out", points=points, stderr=errors)
        found.append(LineChart(title=title, lines=[line], unit=unit, caption=caption))
    names = [name for name in lines[-1] if name.startswith("reward/")] if lines else []
    if len(names) > 1:
        parts = [
            Line(
                name=name.removeprefix("reward/"),
                points=[(float(line["step"]), value) for line in lines if (value := line.get(name)) is not None],
            )
            for name in names
        ]
        caption = "Each as it is before its weight."
        found.append(LineChart(title="Parts of the reward", lines=parts, smooth=True, caption=caption))
    return found
