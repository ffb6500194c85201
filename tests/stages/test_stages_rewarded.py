"""The whole run of a stage that learns from rollouts: measured, trained, reported, and what fails beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_stage_toys import SUMS, grpo_spec, model_artifact, reward_artifact, rows_file, sums
from stage_toys import workspace

from luopan.model import hf
from luopan.report.data import StageReport
from luopan.rl.held_out import Exam
from luopan.rl.watch import Alarm, Watch
from luopan.stages import rewarded
from luopan.stages.grpo import Grpo
from luopan.stages.rewarded import Setup, Way, with_reference
from luopan.train.tracking import read_metrics


def ran(tmp_path: Path, inputs: dict[str, Any] | None = None, **changes: Any) -> tuple[dict[str, Any], StageReport]:
    out = workspace(tmp_path / "out")
    given = {"model": (model_artifact(tmp_path / "model"),), **(inputs or {})}
    metrics = Grpo.run(grpo_spec(**changes), given, out)
    return metrics, StageReport.model_validate_json((out.path / "stage_report.json").read_text())


def test_a_run_from_the_users_rows_with_a_reward_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = rows_file(tmp_path / "sums.jsonl", [*sums(12), {"question": "No answer?"}])
    metrics, report = ran(
        tmp_path,
        {"reward_model": (reward_artifact(tmp_path / "reward"),)},
        tasks=[{"data": data, **SUMS}, {"skill": "addition", "options": {"digits": [1]}}],
        rewards=[{"kind": "verifier"}, {"kind": "reward_model", "weight": 0.1}],
        reward_model="r",
        max_steps=3,
        eval_rollouts_steps=2,
        beta=0.1,
    )
    assert metrics["steps"] == 3 and metrics["set_aside"] == 1
    assert [(one.reason, one.count, one.unit) for one in report.set_aside] == [
        ("has no column 'answer'; it has 'question'", 1, "prompts")
    ]
    names = [figure.name for figure in report.figures]
    assert names[:4] == [
        "verifier accuracy, sampled", "reward on held-out prompts", "sums, sampled", "addition, sampled",
    ]  # fmt: skip
    assert all(figure.before is not None and figure.after is not None for figure in report.figures[:4])
    lines = read_metrics(tmp_path / "out")
    assert [("held_out/accuracy" in line, "held_out/reward_stderr" in line) for line in lines] == [
        (False, False), (True, True), (False, False),
    ]  # fmt: skip
    kept = json.loads((tmp_path / "out/rollouts/held_out-000002.json").read_text())
    assert len(kept["sampled"]) == 6 and kept["each"] == 4
    assert all({"reward", "reward/verifier", "reward/reward_model", "kl"} <= set(line) for line in lines)
    titles = [picture.title for picture in report.pictures]
    assert titles == ["Held-out prompts, verifier accuracy", "Held-out prompts, reward", "Parts of the reward"]
    held = report.pictures[0].lines[0]
    assert [step for step, _ in held.points] == [0, 2, 3] and held.stderr is not None
    assert [held.points[0][1], held.points[2][1]] == [report.figures[0].before, report.figures[0].after]
    assert {line.name for line in report.pictures[2].lines} == {"verifier", "reward_model"}
    assert any(sample.group == "rollouts" for sample in report.samples)
    before, after = (hf.load(tmp_path / place) for place in ("model/model", "out/model"))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))


def test_a_held_out_measurement_that_fails_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take, calls = Exam.take, iter(range(9))

    def broken(exam: Exam) -> dict[str, Any]:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return take(exam)

    monkeypatch.setattr(Exam, "take", broken)
    metrics, _ = ran(tmp_path, max_steps=3, eval_rollouts_steps=1)
    assert metrics["steps"] == 3
    assert ["held_out/length" in line for line in read_metrics(tmp_path / "out")] == [False, True, False]


def test_held_out_prompts_in_between_change_nothing(tmp_path: Path) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    ran(with_it, eval_rollouts_steps=1, max_steps=3)
    ran(without, max_steps=3)
    one, other = (hf.load(place / "out/model") for place in (with_it, without))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_a_watched_part_is_told_and_what_is_trained_comes_first(tmp_path: Path) -> None:
    metrics, report = ran(
        tmp_path,
        {"reward_model": (reward_artifact(tmp_path / "reward"),)},
        tasks=[{"skill": "talk", "thinking": False, "options": {"multi_turn": 0.0}}],
        rewards=[{"kind": "reward_model"}, {"kind": "check", "verifier": "polite", "weight": 0}, {"kind": "format"}],
        reward_model="r",
        truncation="keep",
        max_steps=1,
    )
    figures = {figure.name: figure for figure in report.figures}
    names = ["reward on held-out prompts", "verifier accuracy, sampled", "reward_model, sampled", "polite, sampled"]
    assert list(figures)[:5] == [*names, "format, sampled"]
    assert [figures[name].headline for name in names] == [True, False, False, True]
    polite = figures["polite, sampled"]
    assert polite.unit == "%" and polite.after is not None and 0.0 <= polite.after <= 1.0 and polite.n == 4
    assert "watched" in polite.help and "watched" not in figures["format, sampled"].help
    before = json.loads((tmp_path / "out" / "before.json").read_text())
    assert len(before["parts"]["polite"]) == len(before["rewards"]) == 4
    assert metrics["before"]["polite, sampled"] == pytest.approx(sum(before["parts"]["polite"]) / 4)


def test_what_looks_wrong_is_said_while_it_trains_and_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ring(watch: Watch, line: dict[str, Any]) -> list[Alarm]:
        return [Alarm("length", line["step"], "answers grew")] if line["step"] == 2 else []

    monkeypatch.setattr(Watch, "look", ring)
    out = workspace(tmp_path / "out")
    metrics = Grpo.run(grpo_spec(max_steps=3), {"model": (model_artifact(tmp_path / "model"),)}, out)
    assert [note for note in out.progress.notes if "grew" in note] == ["WARNING: answers grew"]  # type: ignore[attr-defined]
    report = StageReport.model_validate_json((out.path / "stage_report.json").read_text())
    assert [note.text for note in report.notes if note.level == "warning"] == ["From step 2: answers grew"]
    assert metrics["alarms"] == 1


def test_the_reference_is_the_input_model_also_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken from the policy after a resume it would be another one, and nobody would notice."""
    kept: list[Setup] = []

    def keep(setup: Setup, way: Way) -> Setup:
        kept.append(with_reference(setup, way))
        return kept[-1]

    monkeypatch.setattr(rewarded, "with_reference", keep)
    inputs = {"model": (model_artifact(tmp_path / "model"),)}
    out = workspace(tmp_path / "out")
    take, calls = Exam.take, iter(range(9))

    def killed_once(exam: Exam) -> dict[str, Any]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return take(exam)

    monkeypatch.setattr(Exam, "take", killed_once)
    spec = grpo_spec(beta=0.1, max_steps=2, save_steps=1, eval_rollouts_steps=1)
    with pytest.raises(KeyboardInterrupt):
        Grpo.run(spec, inputs, out)
    assert Grpo.run(spec, inputs, out)["resumed_from"] == 1
    given = hf.load(tmp_path / "model/model").state_dict()
    assert len(kept) == 2
    for setup in kept:
        assert setup.reference is not None and setup.reference is not setup.chat.model
        assert all(torch.equal(value, given[name]) for name, value in setup.reference.state_dict().items())
        assert not any(parameter.requires_grad for parameter in setup.reference.parameters())
