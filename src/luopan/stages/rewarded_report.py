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
