"""Online DPO and rejection sampling as stages: whole runs, killed ones, and what their specs refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rl_stage_toys import SUMS, model_artifact, rows_file, sums
from stage_toys import workspace

from luopan.artifacts import Artifact
from luopan.errors import RecipeError, TrainingError
from luopan.model import hf
from luopan.recipe.online_specs import OnlineDpoSpec, RejectionSpec
from luopan.report.data import StageReport
from luopan.rl.rewards import Part, Rewards, each
from luopan.stages import rewarded
from luopan.stages.on_policy import PreciseEngine
from luopan.stages.online_dpo import OnlineDpo
from luopan.stages.rejection import Rejection
from luopan.train.tracking import read_metrics

COMMON: dict[str, Any] = {
    "model": "a", "tasks": [{"skill": "addition", "options": {"digits": [1]}}], "prompts": 12, "prompts_per_step": 4,
    "num_generations": 4, "max_completion_length": 8, "max_length": 128, "temperature": 1.0, "learning_rate": 1e-3,
    "max_steps": 4, "test_cases": 4, "logging_steps": 1, "save_steps": 1, "truncation": "keep",
}  # fmt: skip
STAGES: dict[str, tuple[Any, Any]] = {"online_dpo": (OnlineDpo, OnlineDpoSpec), "rejection": (Rejection, RejectionSpec)}


def spec(kind: str, **changes: Any) -> Any:
    return STAGES[kind][1](kind=kind, **{**COMMON, **changes})


@pytest.fixture
def odd_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights get no sum right: an answer is right here that begins with an odd token, and ends of itself."""
    part = Part("odd", 1.0, each(lambda answer: float(answer.tokens[0] % 2)))
    monkeypatch.setattr(rewarded, "build_rewards", lambda *_: Rewards((part,), truncation="keep"))
    generate = PreciseEngine.generate

    def ended(engine: PreciseEngine, *args: Any, **more: Any) -> Any:
        done = generate(engine, *args, **more)
        for one in done:
            object.__setattr__(one, "finish_reason", "stop")
        return done

    monkeypatch.setattr(PreciseEngine, "generate", ended)


def ran(kind: str, tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], StageReport]:
    torch.manual_seed(0)
    if not (tmp_path / "model").exists():
        model_artifact(tmp_path / "model")
    out = workspace(tmp_path / "out")
    metrics = STAGES[kind][0].run(spec(kind, **changes), {"model": (Artifact(tmp_path / "model"),)}, out)
    return metrics, StageReport.model_validate_json((out.path / "stage_report.json").read_text())


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in hf.load(folder / "model").parameters()])


@pytest.mark.usefixtures("odd_is_right")
def test_online_dpo_from_start_to_report(tmp_path: Path) -> None:
    metrics, report = ran("online_dpo", tmp_path, steps_per_generation=2)
    assert metrics["steps"] == 4 and "semi-online, sampled anew every 2 updates" in report.summary
    lines = read_metrics(tmp_path / "out")
    assert all({"pairs", "idle_pairs", "reward_gap", "rewards/margins", "reward/odd"} <= set(line) for line in lines)
    assert (
        lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5) != lines[-1]["rewards/margins"]
    )  # its own reference
    assert not torch.equal(weights(tmp_path / "model"), weights(tmp_path / "out"))


@pytest.mark.usefixtures("odd_is_right")
def test_rejection_sampling_from_start_to_report(tmp_path: Path) -> None:
    metrics, report = ran("rejection", tmp_path, num_iterations=2)
    assert metrics["steps"] == 4 and report.summary.startswith("2 rounds of 4 answers to 4 prompts of addition")
    rows = [json.loads(line) for line in (tmp_path / "out" / "kept.jsonl").read_text().splitlines()]
    kept = [line["kept"] for line in read_metrics(tmp_path / "out")]
    assert len(rows) == kept[0] + kept[2] and {row["round"] for row in rows} == {0, 1}
    assert all(row["messages"][-1]["role"] == "assistant" and row["model"] == "mine" for row in rows)
    assert any(
        figure.name == "answers kept in the last round" and figure.after == kept[-1] for figure in report.figures
    )


@pytest.mark.usefixtures("odd_is_right")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("online_dpo", {"steps_per_generation": 2}), ("rejection", {"num_iterations": 2})],
)
def test_killed_while_it_sampled_it_ends_with_the_same_bits(
    kind: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(kind, tmp_path / "alone", **changes)
    generate = PreciseEngine.generate

    def killed(engine: PreciseEngine, *args: Any, **more: Any) -> Any:
        done = generate(engine, *args, **more)
        if list((tmp_path / "killed" / "out" / "checkpoints").glob("step-*")):  # a later generation
            raise SystemExit
        return done

    with monkeypatch.context() as patched:
        patched.setattr(PreciseEngine, "generate", killed)
        with pytest.raises(SystemExit):
            ran(kind, tmp_path / "killed", **changes)
    assert (tmp_path / "killed" / "out" / "checkpoints").exists()
    ran(kind, tmp_path / "killed", **changes)
    assert torch.equal(weights(tmp_path / "alone" / "out"), weights(tmp_path / "killed" / "out"))


def test_a_model_that_gets_nothing_right_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="round 1 keeps 0 of 16 answers") as error:
        ran("rejection", tmp_path)
    assert "min_reward" in (error.value.hint or "")


def test_all_equal_rewards_teach_online_dpo_nothing_and_are_said(tmp_path: Path) -> None:
    """Random weights: every answer is wrong, so every pair is idle and the weights stay as they were."""
    ran("online_dpo", tmp_path)
    assert [(line["pairs"], line["idle_pairs"], line["loss"]) for line in read_metrics(tmp_path / "out")] == [
        (0, 1, 0)
    ] * 4
    assert torch.equal(weights(tmp_path / "model"), weights(tmp_path / "out"))


def test_a_pair_that_does_not_fit_a_row_is_refused(tmp_path: Path) -> None:
    data = rows_file(tmp_path / "sums.jsonl", sums(12))
    with pytest.raises(RecipeError, match="with two answers") as error:
        ran("online_dpo", tmp_path, tasks=[{"data": data, **SUMS}], max_completion_length=50, max_length=100)
    assert "Set max_length to at least" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("online_dpo", {"loss_type": "kto"}, "kto learns from single answers"),
        ("online_dpo", {"loss_type": "dpo"}, "dpo is called sigmoid here"),
        ("online_dpo", {"loss_type": "simpo"}, "simpo needs a beta of its own"),
        ("online_dpo", {"loss_type": "ipo", "label_smoothing": 0.1}, "has no effect with loss_type 'ipo'"),
        ("online_dpo", {"choice": "two"}, "are wasted"),
        ("online_dpo", {"num_generations": 1}, "greater than or equal to 2"),
        ("rejection", {"num_iterations": 3}, "no whole number of rounds of 3 updates"),
        ("rejection", {"per_prompt": 5}, "per_prompt 5 is more than num_generations 4"),
        ("rejection", {"beta": 0.1}, "beta"),
    ],
)
def test_what_specs_refuse(kind: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(kind, **changes)
