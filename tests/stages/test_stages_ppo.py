"""The PPO stage: what a recipe may say, what is trained and kept, bad input, and a run that is killed and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rl_stage_toys import model_artifact, reward_artifact
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.corpus.skills import generate_cases
from luopan.errors import ModelError, RecipeError
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.model.reward import add_score, load_reward, save_reward
from luopan.recipe.ppo_specs import PpoSpec
from luopan.report.data import StageReport
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.log import logged_steps, read_log
from luopan.rl.reward_model import load_reward_model, score
from luopan.stages.ppo import Ppo
from luopan.tokens.chat import stop_ids
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer
from luopan.train.tracking import read_metrics

RATED: dict[str, Any] = {
    "rewards": [{"kind": "reward_model"}, {"kind": "verifier", "weight": 0.0}], "reward_model": "r",
    "truncation": "keep", "missing_eos_penalty": 1.0, "max_length": 64,
}  # fmt: skip


def ppo_spec(**changes: Any) -> PpoSpec:
    values: dict[str, Any] = {
        "kind": "ppo", "model": "a", "tasks": [{"skill": "talk", "thinking": False, "options": {"multi_turn": 0.0}}],
        "prompts": 24, "prompts_per_step": 8, "num_iterations": 2, "max_completion_length": 8, "max_length": 96,
        "temperature": 0.8, "learning_rate": 1e-3, "max_steps": 4, "test_cases": 4, "logging_steps": 1,
    }  # fmt: skip
    return PpoSpec(**{**values, **changes})


def inputs(folder: Path) -> dict[str, tuple[Artifact, ...]]:
    return {"model": (model_artifact(folder / "m"),), "reward_model": (reward_artifact(folder / "r"),)}


def report_of(folder: Path) -> StageReport:
    return StageReport.model_validate_json((folder / "stage_report.json").read_text())


# ---- what a recipe may say ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_from": "reward_model"}, "needs the key reward_model"),
        ({**RATED, "truncation": None}, "say truncation"),
        ({"kl_target": 2.0, "kl_coef": 0.0}, "kl_target has no effect"),
        ({"kl_horizon": 100}, "kl_horizon has no effect without kl_target"),
        ({"kl_estimator": "k3", "kl_coef": 0.0}, "kl_estimator has no effect without kl_coef"),
        ({"vf_coef": 0.0}, "vf_coef"),
        ({"curriculum": {}, "rewards": [{"kind": "format"}]}, "curriculum counts"),
        ({"reward_model": "r"}, "need each other"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    changes = {key: value for key, value in changes.items() if value is not None}
    if "rewards" in changes and "truncation" not in changes:
        changes.pop("missing_eos_penalty", None)
    with pytest.raises(ValidationError, match=message):
        ppo_spec(**changes)


def test_defaults_are_those_of_rlhf() -> None:
    spec = ppo_spec()
    fixed = {"cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1, "gamma": 1.0, "lam": 0.95}
    assert {key: getattr(spec, key) for key in fixed} == fixed
    assert PpoSpec.model_fields["num_iterations"].default == 4
    assert spec.value_begins_with == "policy" and ppo_spec(**RATED).value_begins_with == "reward_model"


# ---- a run ----


def test_a_run_with_a_reward_model(tmp_path: Path) -> None:
    given, out = inputs(tmp_path), workspace(tmp_path / "out")
    metrics = Ppo.run(ppo_spec(**RATED), given, out)
    assert metrics["steps"] == 4
    lines = read_metrics(out.path)
    wanted = {
        "reward", "reward/reward_model", "reward/verifier", "kl", "kl_coef", "value_loss", "policy_loss", "clip_ratio",
        "value_clip_ratio", "explained_variance", "entropy", "completion_length", "stop_rate",
    }  # fmt: skip
    assert all(wanted <= set(line) for line in lines)
    assert lines[0]["kl"] == pytest.approx(0.0, abs=1e-4) and abs(lines[-1]["kl"]) > 1e-4
    assert lines[0]["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert any("agree within" in note for note in out.progress.notes)  # type: ignore[attr-defined]
    names = [figure.name for figure in report_of(out.path).figures]
    assert {"reward on held-out prompts", "KL from the input model", "value loss"} <= set(names)
    for place, load, before in (("model", hf.load, "m"), ("value", load_reward, "r")):
        old, new = load(tmp_path / before / "model"), load(out.path / place)
        assert all(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True)), place
    model, tokenizer = load_reward_model(out.path / "value")
    assert (
        len(score(model, tokenizer, [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]])) == 1
    )


def test_an_answer_without_an_end_costs_what_the_recipe_says(tmp_path: Path) -> None:
    out = workspace(tmp_path / "out")
    Ppo.run(ppo_spec(**{**RATED, "missing_eos_penalty": 5.0}, max_steps=2), inputs(tmp_path), out)
    (step,) = logged_steps(out.path / "rollouts")
    answers = [answer for line in read_log(out.path / "rollouts", step) for answer in line["answers"]]
    assert {answer["finish_reason"] for answer in answers} >= {"length"}
    for answer in answers:
        price = 0.0 if answer["finish_reason"] == "stop" else 5.0
        assert answer["reward"] == pytest.approx(answer["parts"]["reward_model"] - price)


def test_verifiers_are_enough_and_without_a_price_no_reference_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load = hf.load
    monkeypatch.setattr("luopan.stages.common.hf.load", lambda path: opened.append(str(path)) or load(path))
    out = workspace(tmp_path / "out")
    Ppo.run(ppo_spec(kl_coef=0.0), {"model": (model_artifact(tmp_path / "m"),)}, out)
    assert len(opened) == 1
    assert all("kl" not in line for line in read_metrics(out.path))
    assert (out.path / "value" / "config.json").is_file()


def test_a_curriculum_goes_on_from_generation_to_generation(tmp_path: Path) -> None:
    out = workspace(tmp_path / "out")
    spec = ppo_spec(curriculum={"target": 0.5}, num_iterations=1, kl_coef=0.0)
    Ppo.run(spec, {"model": (model_artifact(tmp_path / "m"),)}, out)
    drawn = [line["curriculum/drawn"] for line in read_metrics(out.path)]
    assert drawn == sorted(drawn) and drawn[0] == 8 and drawn[-1] > 8


class Killed(BaseException):
    """Stands for a kill."""


def test_killed_in_a_generation_and_gone_on_with_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tmp_path)
    spec = ppo_spec(**RATED, max_steps=6, save_steps=3, num_iterations=4, kl_target=0.01, kl_horizon=32)
    alone, killed = workspace(tmp_path / "alone"), workspace(tmp_path / "killed")
    Ppo.run(spec, given, alone)
    give = OnPolicyFeed.micro_batches

    def until(feed: OnPolicyFeed, step: int) -> Any:
        if step == 3:
            raise Killed
        return give(feed, step)

    with monkeypatch.context() as patch:
        patch.setattr(OnPolicyFeed, "micro_batches", until)
        with pytest.raises(Killed):
            Ppo.run(spec, given, killed)
    Ppo.run(spec, given, killed)
    for name in ("model/model.safetensors", "value/model.safetensors", "rollouts/step-000004.jsonl"):
        assert (alone.path / name).read_bytes() == (killed.path / name).read_bytes(), name
    coefficients = [[line["kl_coef"] for line in read_metrics(out.path)] for out in (alone, killed)]
    assert coefficients[0] == coefficients[1] and len(set(coefficients[0])) == 2


# ---- bad input ----


def other_reward(folder: Path) -> Artifact:
    """A reward model with a tokenizer of its own."""
    folder.mkdir(parents=True)
    chat = tiny_chat(seed=4, context=64)
    texts = [case.question for skill in ("story", "persona") for case in generate_cases(skill, 300, 0)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=512, min_frequency=2))
    model = Decoder(chat.model.config.model_copy(update={"vocab_size": len(tokenizer)}))
    add_score(model, seed=1)
    save_reward(model, folder / "model", pad_token_id=tokenizer.pad_token_id, eos_token_id=stop_ids(tokenizer))
    save_tokenizer(tokenizer, folder / "model")
    write_manifest(folder, build_manifest(folder, kind="reward", name="reward", identity="x"))
    return Artifact(folder)


def test_a_reward_model_with_another_tokenizer_grades_text_and_is_no_value_model(tmp_path: Path) -> None:
    given = {"model": (model_artifact(tmp_path / "m"),), "reward_model": (other_reward(tmp_path / "r"),)}
    with pytest.raises(RecipeError, match="another tokenizer") as caught:
        Ppo.run(ppo_spec(**RATED), given, workspace(tmp_path / "one"))
    assert "value_from: policy" in str(caught.value.hint)
    out = workspace(tmp_path / "two")
    Ppo.run(ppo_spec(**RATED, value_from="policy", max_steps=2), given, out)
    assert all(line["ungraded"] == 0 and abs(line["reward/reward_model"]) > 0 for line in read_metrics(out.path))


def test_a_value_model_that_reads_fewer_tokens_than_a_row_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="context of the reward model"):
        Ppo.run(ppo_spec(**{**RATED, "max_length": 96}), inputs(tmp_path), workspace(tmp_path / "out"))


def test_a_model_that_is_no_reward_model_is_named(tmp_path: Path) -> None:
    given = {"model": (model_artifact(tmp_path / "m"),), "reward_model": (model_artifact(tmp_path / "r"),)}
    with pytest.raises(ModelError, match="no reward model"):
        Ppo.run(ppo_spec(**RATED), given, workspace(tmp_path / "out"))
