"""Rewards as a recipe asks for them, and what is found out about them before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rl_stage_toys import grpo_spec, reward_artifact
from stage_toys import workspace

from luopan.errors import LuopanError, RecipeError
from luopan.rl.reward_model import load_reward_model, score
from luopan.rl.rewards import Answer, Part, Rewards, each
from luopan.rl.rollouts import Prompt
from luopan.stages.common import Chat
from luopan.stages.rewarding import build_rewards, check_rewards, try_rewards

ASKED = ({"role": "user", "content": "What is 1 plus 1?"},)
PROMPT = Prompt((1,), lambda text: float("2" in text), thinking=True, messages=ASKED, question="1+1?", answer="2")
THOUGHT = "<think>\n1+1=2\n</think>\n2"


def rewards_of(chat: Chat, tmp_path: Path, inputs: Any = None, **changes: Any) -> Rewards:
    return build_rewards(grpo_spec(**changes), chat, inputs or {}, workspace(tmp_path))


def answer(text: str, *, length: int = 3, ending: str = "stop", prompt: Prompt = PROMPT) -> Answer:
    return Answer(prompt, text, (7,) * length, ending)


# ---- parts ----


def test_parts_of_a_recipe(chat: Chat, tmp_path: Path) -> None:
    parts = [
        {"kind": "verifier", "weight": 2.0},
        {"kind": "format", "weight": 0.5},
        {"kind": "check", "verifier": "concise", "weight": 0.25},
        {"kind": "check", "verifier": "contains", "name": "sure", "args": {"any": ["surely"]}, "weight": -1.0},
    ]
    verdicts = rewards_of(chat, tmp_path, rewards=parts)([answer(THOUGHT), answer("2, surely"), answer("3")])
    assert verdicts.parts == [
        {"verifier": 1.0, "format": 1.0, "concise": 1.0, "sure": 0.0},
        {"verifier": 1.0, "format": 0.0, "concise": 1.0, "sure": 1.0},
        {"verifier": 0.0, "format": 0.0, "concise": 1.0, "sure": 0.0},
    ]
    assert verdicts.rewards == [2.75, 1.25, 0.25]


def test_endings_and_length_as_the_recipe_says(chat: Chat, tmp_path: Path) -> None:
    cut = answer(THOUGHT, length=8, ending="length")
    for changes, expected in (
        ({}, 0.0),
        ({"truncation_reward": -1.0}, -1.0),
        ({"truncation": "mask"}, None),
        ({"truncation": "keep"}, 1.0),
        ({"soft_overlong": {"cache": 4}}, -1.0),
        ({"truncation": "keep", "soft_overlong": {"cache": 4, "weight": 0.5}}, 0.5),
    ):
        assert rewards_of(chat, tmp_path, **changes)([cut]).rewards == [expected], changes
    near = rewards_of(chat, tmp_path, soft_overlong={"cache": 4})([answer(THOUGHT, length=7)])
    assert near.rewards == [pytest.approx(0.25)] and near.parts[0]["soft_overlong"] == -0.75  # max_completion_length 8


def test_a_reward_model_reads_the_conversation_without_the_thinking(chat: Chat, tmp_path: Path) -> None:
    artifact = reward_artifact(tmp_path / "reward")
    changes: dict[str, Any] = {
        "rewards": [{"kind": "reward_model", "weight": 2.0}], "reward_model": "r", "truncation": "keep",
        "missing_eos_penalty": 3.0,
    }  # fmt: skip
    rewards = rewards_of(chat, tmp_path, {"reward_model": (artifact,)}, **changes)
    cut, long = answer(THOUGHT, ending="length"), answer("so " * 90)
    verdicts = rewards([answer(THOUGHT), long, cut, answer("<think>\nnever ends")])
    model, tokenizer = load_reward_model(artifact.path, device="cpu")
    talks = [[*ASKED, {"role": "assistant", "content": said}] for said in ("2", "...")]
    said, nothing = score(model, tokenizer, talks)
    assert verdicts.parts[0]["reward_model"] == pytest.approx(said) != pytest.approx(nothing)
    expected = [2 * said, None, 2 * said - 3, 2 * nothing]  # its context is 64 tokens: the long one is not graded
    assert verdicts.rewards == [None if value is None else pytest.approx(value) for value in expected]
    assert "longer than" in verdicts.failures["reward_model"]
    endless = replace(PROMPT, messages=({"role": "user", "content": "so " * 90},))
    with pytest.raises(RecipeError, match="'reward_model' cannot grade an answer"):  # else all would go ungraded
        try_rewards(rewards, [endless])
    assert try_rewards(rewards, [replace(endless, input_ids=(1,) * 90), PROMPT]) == []  # not for one that is too long


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": [{"kind": "format"}], "format_reward": 0.5}, "put {kind: format, weight: 0.5} there"),
        ({"rewards": [{"kind": "reward_model"}]}, "need each other"),
        ({"reward_model": "r"}, "need each other"),
        ({"rewards": [{"kind": "check", "verifier": "polite"}] * 2}, "two parts named 'polite'"),
        ({"rewards": [{"kind": "format", "weight": 0.0}]}, "nothing is rewarded"),
        ({"tasks": [{"data": "x.jsonl"}]}, "task 'x' has no verifier"),
        ({"truncation": "keep", "truncation_reward": 1.0}, "truncation_reward has no effect"),
        ({"truncation": "keep", "missing_eos_penalty": 1.0}, "missing_eos_penalty needs"),
        ({"soft_overlong": {"cache": 8}}, "below max_completion_length 8"),
        ({"eval_rollouts_steps": 2, "test_cases": 0}, "no effect with test_cases 0"),
        ({"eval_rollouts_steps": 9, "max_steps": 9}, "answered before and after anyway"),
        ({"steps_per_generation": 1000}, "a share of"),
    ],
)
def test_what_has_no_effect_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        grpo_spec(**changes)
    assert words in str(error.value)


def test_a_check_that_there_is_not_is_refused_before_compute() -> None:
    with pytest.raises(LuopanError, match="no verifier 'brief'"):
        check_rewards(grpo_spec(rewards=[{"kind": "check", "verifier": "brief"}]))


# ---- tried before training ----


def test_a_part_that_cannot_grade_a_sentence_is_refused(chat: Chat, tmp_path: Path) -> None:
    def broken(one: Answer) -> float:
        raise KeyError("entry")

    with pytest.raises(RecipeError, match="'mine' cannot grade an answer: KeyError: 'entry'"):
        try_rewards(Rewards((Part("mine", 1.0, each(broken)),)), [PROMPT])
    args = {"kind": "check", "verifier": "contains", "args": {"all": 3}}  # no list of phrases
    with pytest.raises(RecipeError, match="'contains' cannot grade") as error:
        try_rewards(rewards_of(chat, tmp_path, rewards=[args, {"kind": "verifier"}]), [PROMPT])
    assert "plain sentence" in str(error.value)


def test_prompts_whose_own_answer_is_refused_are_told(chat: Chat, tmp_path: Path) -> None:
    rewards = rewards_of(chat, tmp_path)
    wrong = replace(PROMPT, answer="three")
    prompts = [PROMPT, wrong, replace(PROMPT, answer="", grade=lambda text: None), PROMPT]
    assert [place for place, _ in try_rewards(rewards, prompts)] == [1]
    assert try_rewards(rewards, [PROMPT] * 20 + [wrong]) == []  # the first 16 are tried
    with pytest.raises(RecipeError, match="none of 2 reference answers is accepted"):
        try_rewards(rewards, [wrong, replace(wrong, question="2?")])
