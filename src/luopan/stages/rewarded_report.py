"""What a stage that learns from rollouts has to show: figures before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.evals.skills import standard_error
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.report.data import Figure
from luopan.stages.measure import suite_figures


def figures_of(spec: OnPolicySpec, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    """Held-out prompts first, then the suite, then how long answers are."""
    trained = {task.skill for task in spec.tasks}
    headline = [test.name for test in spec.suite.tests if test.skill in trained]
    figures = suite_figures(dict(before), dict(after), headline=(*headline, "skills, mean"))
    sampled = f"mean of {spec.test_samples} answers at temperature {spec.temperature:g}, as in training"
    graded = [key for key in ("sampled", "rewards") if any(value is not None for value in after.get(key, []))]
    held = [
        _sampled(spec, before, after, key, f"held-out prompts of the tasks, {sampled}", headline=key == graded[0])
        for key in graded
    ]
    tasks = list(dict.fromkeys(after.get("tasks", [])))
    if len(tasks) > 1:
        held += [_of_task(before, after, task, f"held-out prompts of {task}, {sampled}") for task in tasks]
    tokens = [(result["total"] or {}).get("mean_tokens") or result.get("length") for result in (before, after)]
    return [*held, *figures, Figure(name="answer length", before=tokens[0], after=tokens[1], unit="tokens",
                                    higher_is_better=None, headline=False)]  # fmt: skip


def _sampled(
    spec: OnPolicySpec, before: Mapping[str, Any], after: Mapping[str, Any], key: str, help: str, *, headline: bool
) -> Figure:
    name = {"sampled": "verifier accuracy, sampled", "rewards": "reward on held-out prompts"}[key]
    return _figure(name, known(before.get(key, [])), known(after[key]), "%" if key == "sampled" else "", help, headline)


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
