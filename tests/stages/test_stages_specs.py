"""What a stage's part of a recipe refuses: keys without effect, no source or two, epochs that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from luopan.errors import RecipeError
from luopan.recipe.parts import ChatSource, ChatSuite, SkillTest
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.recipe.sft_specs import SftSpec
from luopan.recipe.specs import GrpoSpec, MidtrainSpec

TRAIN = {"learning_rate": 1e-3, "max_steps": 9}
MIDTRAIN = {"kind": "midtrain", "model": "a", "corpus": "c", "sequence_length": 64, **TRAIN}
SFT = {"kind": "sft", "model": "a", "max_length": 64, "learning_rate": 1e-3, "data": [{"skill": "talk", "examples": 3}]}
PREFERENCE = {"kind": "preference", "model": "a", "max_length": 64, **TRAIN}


def refusal(spec: Any, **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "exactly one of skill, path and dataset"),
        ({"skill": "talk", "path": "a.jsonl", "examples": 3}, "exactly one of skill, path and dataset"),
        ({"skill": "talk"}, "examples is required"),
        ({"path": "a.jsonl", "thinking": 0.5}, "no effect on a file"),
        ({"path": "a.jsonl", "options": {"digits": 1}}, "no effect on a file"),
        ({"path": "a.jsonl", "flaw_rate": 0.5}, "no effect on a file"),
        ({"skill": "talk", "examples": 3, "flaw": "rambling"}, "flaw has no effect"),
        ({"skill": "talk", "examples": 3, "thinking": 1.5}, "less than or equal to 1"),
        ({"skill": "talk", "exmples": 3}, "exmples"),
    ],
)
def test_chat_source(values: dict[str, Any], words: str) -> None:
    assert words in refusal(ChatSource, **values)


def test_chat_sources_that_are_fine() -> None:
    assert ChatSource(skill="talk", examples=3, flaw_rate=0.1, flaw="rambling").name == "talk"
    assert ChatSource(path="chats/a.jsonl", examples=5).name == "chats/a.jsonl"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "exactly one of pairs and data"),
        ({"pairs": 3, "data": [{"path": "a.jsonl"}]}, "exactly one of pairs and data"),
        ({"data": [{"path": "a.jsonl"}], "flaw": "rude"}, "no effect on the user's pairs"),
        ({"data": [{"path": "a.jsonl"}], "flaw_cases": 4}, "no effect on the user's pairs"),
        ({"pairs": 3, "loss_type": "ipo", "label_smoothing": 0.1}, "has no effect with loss_type 'ipo'"),
        ({"pairs": 3, "loss_type": "dpo"}, "dpo is called sigmoid here"),
        ({"pairs": 3, "loss_type": ["sft", "apo"]}, "apo is called apo_zero"),
        ({"pairs": 3, "label_smoothing": 0.5}, "less than 0.5"),
        ({"pairs": 3, "beta": 0}, "greater than 0"),
    ],
)
def test_preference(values: dict[str, Any], words: str) -> None:
    assert words in refusal(PreferenceSpec, **PREFERENCE, **values)


@pytest.mark.parametrize(
    "values", [{"extension": "abf"}, {"rope_theta": 2e4}, {"extension": "yarn", "rope_theta": 2e4}]
)
def test_midtrain_base_and_abf_need_each_other(values: dict[str, Any]) -> None:
    assert "rope_theta and extension abf need each other" in refusal(MidtrainSpec, **MIDTRAIN, **values)
    MidtrainSpec(**MIDTRAIN, extension="abf", rope_theta=2e4)
    MidtrainSpec(**MIDTRAIN, extension="yarn")


def test_tests_of_a_suite_differ_by_name() -> None:
    plain, thinking = SkillTest(skill="addition"), SkillTest(skill="addition", thinking=True)
    easy = SkillTest(skill="addition", options={"digits": [1]})
    assert [test.name for test in (plain, thinking, easy)] == [
        "addition", "addition (thinking)", "addition digits=[1]",
    ]  # fmt: skip
    ChatSuite(tests=(plain, thinking, easy))
    assert "named twice: addition" in refusal(ChatSuite, tests=(plain, SkillTest(skill="addition", cases=9)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"per_device_train_batch_size": 4}, "per_device_train_batch_size has no effect"),
        ({"loss_type": "bnpo"}, "use dapo"),
        ({"epsilon": 1.5}, "must be in (0, 1)"),
        ({"num_generations": 1}, "makes no group"),
        ({"num_generations": 1, "advantage": "reinforce_pp_baseline"}, "makes no group"),
        ({"epsilon": 0.2}, "epsilon has no effect with one update per generation"),
        ({"epsilon_high": 0.28}, "epsilon_high has no effect with one update"),
        ({"delta": 4.0}, "delta has no effect with one update"),
        ({"importance_sampling_level": "sequence"}, "level has no effect with one update"),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, "no effect with one update"),
        ({"loss_type": "cispo", "num_iterations": 2}, "needs epsilon_high"),
        ({"loss_type": "cispo", "num_iterations": 2, "epsilon_high": 5.0, "epsilon": 0.2}, "epsilon has no effect"),
        ({"advantage": "rloo", "scale_rewards": "none"}, "scale_rewards has no effect"),
        ({"advantage": "reinforce_pp", "resample_rounds": 1}, "no group is dead"),
        ({"advantage": "reinforce_pp", "loss_type": "rloo"}, "credits each token"),
        ({"kl_in": "reward"}, "kl_in has no effect with beta 0"),
        ({"kl_estimator": "k2"}, "kl_estimator has no effect with beta 0"),
        ({"use_bias_correction_kl": False}, "no effect with beta 0"),
        ({"beta": 0.1, "kl_in": "reward", "use_bias_correction_kl": True}, "which has no gradient"),
        ({"beta": 0.1, "kl_estimator": "k1", "use_bias_correction_kl": False}, "zero in the mean"),
        ({"policy_lag": 2, "num_iterations": 3}, "policy_lag 2 has no effect: a generation is used for 3 updates"),
        ({"policy_lag": 1, "importance_cap": 2.0, "epsilon": 0.1}, "epsilon has no effect with one update"),
        ({"importance_cap": 2.0, "precision": "fp32"}, "where every weight is 1"),
        ({"importance_cap": 0.5}, "greater than or equal to 1"),
        ({"beta": 0.1, "loss_type": "rloo"}, "has its KL in the reward"),
        ({"temperature": 0}, "greater than 0"),
        ({"tasks": []}, "at least 1 item"),
    ],
)
def test_grpo(values: dict[str, Any], words: str) -> None:
    fine = {"kind": "grpo", "model": "a", "tasks": [{"skill": "addition"}], **TRAIN}
    GrpoSpec(**fine)
    assert words in refusal(GrpoSpec, **{**fine, **values})


def test_grpos_knobs_reach_the_loss() -> None:
    fine: dict[str, Any] = {"kind": "grpo", "model": "a", "tasks": [{"skill": "addition"}], **TRAIN}
    plain = GrpoSpec(**fine).loss_knobs
    assert {name for name, value in plain.items() if value is not None} == {"loss_type", "importance_sampling_level"}
    several = {"num_iterations": 2, "beta": 0.1}
    assert GrpoSpec(**fine, **several).loss_knobs["kl_estimator"] == "k3"
    rewarded = GrpoSpec(**fine, **several, kl_in="reward", epsilon=0.3)
    assert "beta" not in rewarded.loss_knobs and rewarded.divergence == "k1" and rewarded.loss_knobs["epsilon"] == 0.3
    assert GrpoSpec(**fine, advantage="reinforce_pp", num_generations=1).test_samples == 1
    # With older weights the ratio is not 1 at the one update of a generation.
    assert GrpoSpec(**fine, policy_lag=1, epsilon=0.1).loss_knobs["epsilon"] == 0.1


# ---- epochs ----


def test_steps_or_epochs() -> None:
    words = "exactly one of max_steps and num_train_epochs"
    assert words in refusal(SftSpec, **SFT)
    assert words in refusal(SftSpec, **SFT, max_steps=5, num_train_epochs=1)


def test_epochs_become_steps_and_keep_what_was_said() -> None:
    spec = SftSpec(**SFT, num_train_epochs=2, warmup_steps=3, adam_beta2=0.9)
    config = spec.with_steps(40)
    assert (config.max_steps, config.warmup_steps, config.adam_beta2) == (40, 3, 0.9)
    assert config.num_decay_steps == 8  # a fifth, of the steps and not of a placeholder
    assert spec.max_steps is None


def test_a_warm_up_that_does_not_fit_is_told_as_soon_as_it_can_be() -> None:
    assert "do not fit" in refusal(SftSpec, **SFT, max_steps=5, warmup_steps=6)
    spec = SftSpec(**SFT, num_train_epochs=1, warmup_steps=6)
    with pytest.raises(RecipeError) as caught:
        spec.with_steps(5)
    assert "warm-up (6 steps)" in str(caught.value) and "5 steps" in (caught.value.hint or "")


def test_a_schedule_key_without_effect_is_refused_with_epochs_too() -> None:
    said = refusal(SftSpec, **SFT, num_train_epochs=1, lr_scheduler_type="cosine", decay_ratio=0.1)
    assert "decay_ratio has no effect" in said
