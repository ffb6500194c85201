"""Alarms: each rings on the run it is made for, once, and is silent on a run that learns."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from luopan.rl.watch import Alarm, Change, Watch, alarms_of

Shape = Callable[[float], float]


def run(count: int = 40, noise: float = 0.02, held: Shape | None = None, **shapes: Shape) -> list[dict[str, Any]]:
    """Lines of a run: each figure a function of how far it has come (0 to 1), with noise."""
    dice = random.Random(1)
    lines: list[dict[str, Any]] = []
    if held is not None:
        lines.append({"step": 0, "held_out/accuracy": held(0.0), "held_out/accuracy_stderr": 0.02})
    for number in range(1, count + 1):
        at = number / count
        line: dict[str, Any] = {"step": number, "loss": 0.0, "reward": 0.5}
        line |= {name.replace("__", "/"): shape(at) + dice.gauss(0, noise) for name, shape in shapes.items()}
        if held is not None and number % 10 == 0:
            line |= {"held_out/accuracy": held(at), "held_out/accuracy_stderr": 0.02}
        lines.append(line)
    return lines


def kinds(lines: list[dict[str, Any]], **more: Any) -> list[str]:
    return [alarm.kind for alarm in alarms_of(lines, **more)]


def rises(at: float) -> float:
    return 0.3 + 0.5 * at


def flat(at: float) -> float:
    return 0.3


HEALTHY: dict[str, Shape] = {
    "reward": rises, "reward__verifier": rises, "reward__format": rises, "entropy": lambda at: 1.0 - 0.5 * at,
    "stop_rate": lambda at: 0.9, "completion_length": lambda at: 40 + 20 * at,
}  # fmt: skip


def test_a_run_that_learns_is_left_alone() -> None:
    assert kinds(run(held=rises, **HEALTHY), longest=256) == []
    assert kinds(run(**HEALTHY)) == []


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("hacking", {"held": flat}, "accuracy on held-out prompts went from 0.3 to 0.3"),
        ("hacking", {"held": lambda at: 0.3 - 0.2 * at}, "gaming its reward"),
        ("format", {"held": rises, "reward__verifier": flat}, "by the form of the answers alone"),
        ("length", {"held": rises, "completion_length": lambda at: 20 + 60 * at}, "answers grew from 28 to 57 tokens"),
        ("length", {"held": rises, "completion_length": lambda at: 180 + 80 * at}, "the limit is 256"),
        ("entropy", {"held": rises, "entropy": lambda at: max(0.01, 1 - 1.5 * at)}, "says one thing only"),
        ("stops", {"held": rises, "stop_rate": lambda at: 0.9 - 0.5 * at}, "fell from 83% to 63%"),
    ],
)
def test_each_alarm_rings_on_its_own_run_and_once(kind: str, changes: dict[str, Any], words: str) -> None:
    found = alarms_of(run(noise=0.002, **{**HEALTHY, **changes}), longest=256)
    assert [alarm.kind for alarm in found] == [kind]
    assert words in found[0].text and isinstance(found[0], Alarm) and found[0].step > 0


def test_noise_is_no_rise() -> None:
    assert kinds(run(noise=0.3, held=flat, reward=flat, reward__format=flat, reward__verifier=flat)) == []
    assert Change.of([0.0, 1.0, 0.0, 1.0], [0.2, 1.2, 0.2, 1.2]).rose is False
    assert Change.of([0.0, 0.01, 0.0, 0.01], [0.2, 0.21, 0.2, 0.21]).rose is True


def test_too_few_lines_say_nothing() -> None:
    lines = run(noise=0.0, held=flat, **HEALTHY)
    assert kinds(lines[:5]) == [] and kinds(lines) == ["hacking"]


def test_lines_that_come_again_replace_those_before() -> None:
    lines = run(held=flat, **HEALTHY)
    watch = Watch()
    heard = [alarm.kind for line in [*lines[:20], *lines[15:]] for alarm in watch.look(line)]
    assert heard == kinds(lines) == ["hacking"]
    assert [line["step"] for line in watch.lines] == list(range(1, 41))
    assert [line["step"] for line in watch.held_out] == [0, 10, 20, 30, 40]


def test_figures_that_are_missing_or_no_numbers_are_passed_over() -> None:
    lines = [{"step": n, "reward": float("nan") if n % 2 else 0.1, "entropy": None} for n in range(1, 40)]
    assert kinds(lines) == [] and kinds([{"step": 1, "loss": 2.0}]) == []
