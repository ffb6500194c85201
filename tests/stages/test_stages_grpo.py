"""What GRPO rewards, which prompts it draws, the reference beside the feed, and the check before the first update."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from stage_toys import tiny_chat, workspace

from luopan.corpus.skills import generate_cases
from luopan.errors import RecipeError, TrainingError
from luopan.recipe.specs import GrpoSpec
from luopan.rl.feed import Collected, OnPolicyFeed
from luopan.rl.groups import GroupCollector
from luopan.rl.rewards import Answer, Part, Rewards, each
from luopan.rl.rollouts import Prompt
from luopan.stages import ratio
from luopan.stages.common import Chat
from luopan.stages.grpo import WAY, build_feed, loss
from luopan.stages.measure import SUITE_SEED
from luopan.stages.on_policy import rollout_figures
from luopan.stages.ratio import assert_ratio_is_one
from luopan.stages.rewarded import feed_of, set_up
from luopan.stages.rewarding import build_rewards
from luopan.stages.tasks import training_prompts
from luopan.tokens.chat import encode_prompt
from luopan.train.loop import fit
from luopan.train.losses import policy_loss, token_scores
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics

THOUGHT = "<think>\n1+1=2\n</think>\n2"


def spec(**changes: Any) -> GrpoSpec:
    values: dict[str, Any] = {
        "kind": "grpo", "model": "a", "tasks": [{"skill": "addition", "options": {"digits": [1]}}], "prompts": 12,
        "prompts_per_step": 3, "num_generations": 4, "max_completion_length": 8, "max_length": 128,
        "temperature": 0.8, "learning_rate": 1e-3, "max_steps": 2,
    }  # fmt: skip
    return GrpoSpec(**{**values, **changes})


def by_first_token(feed: OnPolicyFeed) -> OnPolicyFeed:
    """The feed with another reward: whether an answer begins with an odd token."""
    part = Part("odd", 1.0, each(lambda answer: float(answer.tokens[0] % 2)))
    cast(GroupCollector, feed.collector).rewards = Rewards((part,), truncation="keep")
    return feed


def earned(
    tmp_path: Path, text: str, *, score: float | None = 1.0, thinking: bool = True, ending: str = "stop", **more: Any
) -> tuple[float | None, dict[str, float | None]]:
    prompt = Prompt((1,), lambda text: score, thinking=thinking)
    rewards = build_rewards(spec(**{"format_reward": 0.25, **more}), cast(Chat, None), {}, workspace(tmp_path))
    verdicts = rewards([Answer(prompt, text, (1,), ending)])
    return verdicts.rewards[0], verdicts.parts[0]


# ---- rewards ----


def test_reward_is_the_verifiers_score_and_a_little_for_form(tmp_path: Path) -> None:
    assert earned(tmp_path, THOUGHT) == (1.25, {"verifier": 1.0, "format": 1.0})
    assert earned(tmp_path, THOUGHT, score=0.0) == (0.25, {"verifier": 0.0, "format": 1.0})
    assert earned(tmp_path, "2") == (1.0, {"verifier": 1.0, "format": 0.0})
    assert earned(tmp_path, "2", thinking=False) == (1.25, {"verifier": 1.0, "format": 1.0})
    assert earned(tmp_path, THOUGHT, format_reward=0.0)[0] == 1.0


def test_an_answer_without_an_end_earns_nothing_and_is_still_graded(tmp_path: Path) -> None:
    assert earned(tmp_path, THOUGHT, ending="length") == (0.0, {"verifier": 1.0, "format": 1.0})


def test_an_answer_that_cannot_be_graded_has_no_reward(tmp_path: Path) -> None:
    assert earned(tmp_path, THOUGHT, score=None)[0] is None
    assert earned(tmp_path, THOUGHT, score=None, ending="length")[0] is None


def test_a_prompt_of_a_skill_is_graded_by_its_cases_own_verifier(chat: Chat) -> None:
    prompt = training_prompts(spec(), chat, 0)[0]
    assert prompt.grade(f"<think>\nhm\n</think>\n{prompt.answer}") == 1.0
    assert prompt.grade(f"<think>\nhm\n</think>\n{int(prompt.answer) + 1}") == 0.0
    assert prompt.grade(f"<think>\n{prompt.answer}") == 0.0  # only thought, never said


# ---- prompts ----


def test_prompts_by_weight_and_as_they_are_asked_later(chat: Chat) -> None:
    tasks = [{"skill": "addition", "weight": 3.0}, {"skill": "comparison", "thinking": False}]
    prompts = training_prompts(spec(tasks=tasks), chat, seed=9)
    assert [prompt.name for prompt in prompts] == ["addition"] * 9 + ["comparison"] * 3
    assert [prompt.thinking for prompt in prompts] == [True] * 9 + [False] * 3
    for prompt in (prompts[0], prompts[-1]):
        messages = [{"role": "user", "content": prompt.question}]
        again = encode_prompt(chat.tokenizer, messages, enable_thinking=prompt.thinking)
        assert list(prompt.input_ids) == again


def test_no_question_of_the_suite_is_trained_on(chat: Chat) -> None:
    tasks = [{"skill": "subtraction", "options": {"digits": [2]}}]
    asked = {prompt.question for prompt in training_prompts(spec(tasks=tasks, prompts=300), chat, SUITE_SEED)}
    held = {case.question for case in generate_cases("subtraction", 100, SUITE_SEED, "test", digits=[2])}
    assert len(asked) > 100 and not asked & held


# ---- the reference ----


def test_the_reference_scores_the_trained_tokens(chat: Chat, tmp_path: Path) -> None:
    reference = tiny_chat(seed=1).model
    feed, scoring = (build_feed(spec(), chat, workspace(tmp_path), model) for model in (None, reference))
    for one in (feed, scoring):
        by_first_token(one)
    plain, scored = feed.micro_batches(0), scoring.micro_batches(0)
    for batch, before in zip(scored, plain, strict=True):
        assert torch.equal(batch.input_ids, before.input_ids)
        with torch.no_grad():
            scores = token_scores(reference, batch, 0.8)
        column = batch.per_token["reference_logprobs"]
        assert column.shape == batch.labels.shape
        torch.testing.assert_close(column.flatten()[scores.places], scores.logprobs)
        assert int(column.count_nonzero()) == scores.places.numel() > 0
        term = policy_loss(chat.model, batch, temperature=0.8, beta=0.1)
        total, count = term.metrics["kl"]
        assert float(total / count) > 1e-3


def test_a_policy_is_at_no_distance_from_itself(chat: Chat, tmp_path: Path) -> None:
    feed = build_feed(spec(), chat, workspace(tmp_path), chat.model)
    by_first_token(feed)
    (batch,) = feed.micro_batches(0)
    total, count = policy_loss(chat.model, batch, temperature=0.8, beta=0.1).metrics["kl"]
    assert float(total / count) == pytest.approx(0, abs=1e-6)


# ---- algorithms ----


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "rloo", "loss_type": "rloo", "beta": 0.05, "kl_in": "reward"},
        {"advantage": "reinforce_pp", "beta": 0.05, "kl_in": "reward"},
        {"advantage": "reinforce_pp_baseline", "beta": 0.05, "kl_estimator": "k2"},
        {"loss_type": "cispo", "epsilon_high": 5.0, "num_iterations": 2},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "num_iterations": 2},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "delta": 3.0, "steps_per_generation": 2},
        {"policy_lag": 1, "importance_cap": 2.0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_algorithm_trains(chat: Chat, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Two updates, the second off the policy that sampled where the recipe has several; then the weights are others."""
    recipe = spec(**changes)
    out = workspace(tmp_path)
    setup = set_up(recipe, {}, out, chat, WAY)
    if WAY.referenced(recipe):
        setup = replace(setup, reference=tiny_chat(seed=1).model)
    feed = by_first_token(feed_of(setup, WAY))
    assert_ratio_is_one(chat, feed, recipe, out)
    before = [parameter.detach().clone() for parameter in chat.model.parameters()]
    result = fit(
        chat.model, feed, loss(setup), recipe, tmp_path / "fit", device="cpu", seed=0, progress=SilentProgress()
    )
    assert result.steps == 2 and math.isfinite(result.last["loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, chat.model.parameters(), strict=True))
    moved = recipe.num_iterations * recipe.steps_per_generation > 1
    if recipe.policy_lag:  # the old policy is the trainer's own at the start of the generation
        assert result.last["importance_weight"] > 0 and feed.figures["policy_lag"] == 1
        assert feed.figures["logprob_gap_max"] > 1e-6
    assert (abs(result.last["kl_sampled"]) > 1e-7) == moved
    assert ("kl" in result.last) == (recipe.beta > 0 and recipe.kl_in == "loss")


# ---- before the first update ----


def test_engine_and_trainer_are_compared_before_the_first_update(chat: Chat, tmp_path: Path) -> None:
    out = workspace(tmp_path)
    feed = build_feed(spec(), chat, out)
    by_first_token(feed)
    assert_ratio_is_one(chat, feed, spec(temperature=0.8), out)
    assert any("agree within" in note for note in out.progress.notes)  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"their ratio is .* and not 1") as error:
        assert_ratio_is_one(chat, feed, spec(temperature=1.0), out)
    assert "They agree at temperature 0.8" in str(error.value) and "the loss has temperature 1" in str(error.value)
    (out.path / "checkpoints").mkdir()  # later the weights are others: nothing to compare
    assert_ratio_is_one(chat, feed, spec(temperature=1.0), out)


def test_a_wrong_precision_or_wrong_positions_are_named(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = workspace(tmp_path)
    feed = by_first_token(build_feed(spec(), chat, out))
    batches = feed.micro_batches(0)
    assert ratio.checked(chat, feed, spec(), batches)
    rows = replace(feed, plan=replace(feed.plan, share_prompts=False))
    wrong = [replace(batch, position_ids=batch.position_ids * 2) for batch in rows.micro_batches(0)]
    with pytest.raises(TrainingError, match="packing is to blame"):
        ratio.checked(chat, rows, spec(), wrong)
    for batch in batches:
        batch.per_token["old_logprobs"].sub_(0.5)  # as no setting would make it
    with pytest.raises(TrainingError, match="No setting that was tried explains it"):
        ratio.checked(chat, replace(feed, _held=(0, shifted(feed, 0.5))), spec(), batches)
    monkeypatch.setitem(ratio.RATIO_TOLERANCE, torch.bfloat16, 1e-5)  # a toy's gap is small in bf16, too
    feed.micro_batches(0)
    with pytest.raises(TrainingError, match="They agree with precision: fp32 in the trainer"):
        ratio.checked(chat, feed, spec(precision="bf16"), feed.micro_batches(0))


def shifted(feed: OnPolicyFeed, by: float) -> Collected:
    """What the feed holds, with other log-probabilities of the engine."""
    units = [
        [
            replace(doc, per_token={"old_logprobs": [value - by for value in doc.per_token["old_logprobs"]]})
            for doc in unit
        ]
        for unit in feed.units
    ]
    return Collected(units, {})


def test_the_gap_is_told_of_updates_with_the_weights_that_sampled(chat: Chat, tmp_path: Path) -> None:
    feed = by_first_token(build_feed(spec(num_iterations=2), chat, workspace(tmp_path)))
    first, later = (
        [policy_loss(chat.model, batch, temperature=0.8) for batch in feed.micro_batches(n)] for n in (0, 1)
    )
    (total, count), (most, _) = first[0].metrics["logprob_gap"], first[0].metrics["logprob_gap_max"]
    assert 0 < total / count <= most < 1e-4 and count == first[0].weight
    assert "logprob_gap" not in later[0].metrics and "ratio" in later[0].metrics
    (wrong,) = feed.micro_batches(0)
    places = wrong.labels != -100
    wrong.per_token["old_logprobs"][places] -= 0.25
    gap, gap_max = (
        policy_loss(chat.model, wrong, temperature=0.8).metrics[f"logprob_gap{end}"] for end in ("", "_max")
    )
    assert float(gap[0] / gap[1]) == pytest.approx(0.25, abs=1e-3) == pytest.approx(float(gap_max[0]), abs=1e-3)


def test_figures_of_the_rollouts_are_given_at_logged_steps(chat: Chat, tmp_path: Path) -> None:
    feed = build_feed(spec(), chat, workspace(tmp_path))
    by_first_token(feed)
    hook = rollout_figures(feed, 5, 7, tmp_path)
    feed.micro_batches(4)
    assert hook(4, chat.model) is None
    figures = hook(5, chat.model)
    assert figures == feed.figures and figures is not feed.figures and "reward" in figures
    feed.micro_batches(6)
    assert hook(7, chat.model) == feed.figures != figures  # the last step always has a line
    feed._held = None
    assert hook(5, chat.model) == figures  # as after a resume: from the file


def test_a_row_too_short_for_prompt_and_answer_is_refused_before_training(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="do not fit"):
        build_feed(spec(max_completion_length=60, max_length=64), chat, workspace(tmp_path))


def test_bf16_is_sampled_and_trained_in_bf16(chat: Chat, tmp_path: Path) -> None:
    out = workspace(tmp_path)
    feed = build_feed(spec(precision="bf16"), chat, out)
    by_first_token(feed)
    assert_ratio_is_one(chat, feed, spec(precision="bf16"), out)
    half = feed.micro_batches(0)[0].per_token["old_logprobs"]
    full_feed = build_feed(spec(), chat, workspace(tmp_path / "full"))
    by_first_token(full_feed)
    full = full_feed.micro_batches(0)[0].per_token["old_logprobs"]
    assert half.shape != full.shape or not torch.equal(half, full)


def sitting(folder: Path, stop_at: int | None = None, **changes: Any) -> dict[int, dict[str, Any]]:
    """GRPO's loop from where `folder` stands, killed when it asks for the batches of `stop_at`: lines by step."""
    chat, knobs = tiny_chat(), spec(max_steps=4, logging_steps=1, save_steps=2, **changes)
    feed = build_feed(knobs, chat, workspace(folder))
    by_first_token(feed)
    give = feed.micro_batches

    def until(step: int) -> Any:
        if step == stop_at:
            raise KeyboardInterrupt
        return give(step)

    feed.micro_batches = until  # type: ignore[method-assign]
    loss = partial(policy_loss, temperature=knobs.temperature, epsilon=knobs.epsilon)
    hooks = [rollout_figures(feed, knobs.logging_steps, knobs.max_steps, folder)]
    try:
        fit(chat.model, feed, loss, knobs, folder, device="cpu", seed=1, progress=SilentProgress(), hooks=hooks)
    except KeyboardInterrupt:
        assert stop_at is not None
    return {line["step"]: line for line in read_metrics(folder)}


@pytest.mark.parametrize("changes", [{}, {"policy_lag": 2, "importance_cap": 2.0}], ids=["in step", "lagging"])
def test_a_resumed_run_samples_the_same_answers(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Lagging, update 2 is gone on from, whose generation the weights of update 0 sample."""
    alone = sitting(tmp_path / "alone", **changes)
    sitting(tmp_path / "killed", stop_at=3, **changes)
    resumed = sitting(tmp_path / "killed", **changes)
    for step in (3, 4):
        for key in ("loss", "grad_norm", "reward", "completion_length", "dead_groups"):
            assert resumed[step][key] == alone[step][key], (step, key)
    name = "rollouts/step-000003.jsonl"
    assert (tmp_path / "alone" / name).read_text() == (tmp_path / "killed" / name).read_text()


def test_a_resumed_run_has_all_figures(tmp_path: Path) -> None:
    sitting(tmp_path, stop_at=3)
    assert all("reward" in line for line in sitting(tmp_path).values())


def test_the_last_line_has_the_rollouts_figures(tmp_path: Path) -> None:
    chat, knobs = tiny_chat(), spec(max_steps=3, logging_steps=2)
    feed = build_feed(knobs, chat, workspace(tmp_path))
    by_first_token(feed)
    loss = partial(policy_loss, temperature=knobs.temperature, epsilon=knobs.epsilon)
    hooks = [rollout_figures(feed, knobs.logging_steps, knobs.max_steps, tmp_path)]
    result = fit(chat.model, feed, loss, knobs, tmp_path, device="cpu", seed=1, progress=SilentProgress(), hooks=hooks)
    assert result.last["step"] == 3 and "reward" in result.last
