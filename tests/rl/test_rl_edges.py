"""Generations at the edge: next to nothing to learn from, fewer prompts than are asked for, nothing that ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from rl_toys import parity, prompts, tiny_policy

from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.objectives.advantages import baseline_whitened, group_advantages, leave_one_out, reinforce_pp
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.rewards import Answer

MakeFeed = Callable[..., OnPolicyFeed]


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.7, 0.9, 1 / 3])
def test_rewards_that_are_equal_are_worth_exactly_nothing(reward: float) -> None:
    """Their mean in fp32 is another number, and Adam makes a whole step of what is left of that."""
    for answers in (3, 7, 8):
        rewards = torch.full((4, answers), reward)
        lengths = torch.arange(4 * answers).view(4, answers) + 1
        for found in (
            group_advantages(rewards),
            group_advantages(rewards, "batch"),
            leave_one_out(rewards),
            baseline_whitened(rewards, lengths),
            reinforce_pp(torch.full((137,), reward)),
        ):
            assert not found.any()


@pytest.mark.parametrize("way", ["group", "rloo", "reinforce_pp"])
def test_all_answers_well_formed_and_wrong_is_an_idle_update(policy: Decoder, make_feed: MakeFeed, way: str) -> None:
    feed = make_feed(policy, lambda answer: 0.1, num_generations=8, advantage=way, dead_generations=2)
    feed.micro_batches(0)
    assert feed.figures["idle"] == 1
    with pytest.raises(TrainingError, match="in 2 generations in a row"):
        feed.micro_batches(1)


def test_groups_that_are_dead_before_the_kl_is_taken_are_idle_after_it(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, constant, reward_beta=0.1, reference=lambda docs: [[-1.0] * len(doc) for doc in docs])
    feed.micro_batches(0)
    assert feed.figures["idle"] == 1 and feed.figures["kl"] != 0


def constant(answer: Answer) -> float:
    return 0.25


def test_more_updates_than_answers_are_idle_and_no_error(policy: Decoder, make_feed: MakeFeed) -> None:
    live = prompts()[0].name

    def reward(answer: Answer) -> float:
        return parity(answer) if answer.prompt.name == live else 0.0

    feed = make_feed(policy, reward, prompts_per_step=3, prompts=prompts(3), num_generations=6, steps_per_generation=8)
    seen = []
    for step in range(8):
        batches = feed.micro_batches(step)
        assert batches and sum(len(batch.targets().sources) for batch in batches) > 0
        seen.append(feed.idle)
    assert seen.count(False) == len(feed.units) == 6
    again = replace(feed, _held=None)
    assert [bool(again.micro_batches(step)) and again.idle for step in range(8)] == seen


def test_prompts_that_there_are_not_are_not_asked_for_again(policy: Decoder, make_feed: MakeFeed) -> None:
    asked: list[int] = []

    def reward(answer: Answer) -> float:
        asked.append(1)
        return float(len(asked) % 2)  # every group is alive

    feed = make_feed(policy, reward, prompts=prompts(3), prompts_per_step=6, num_generations=4, resample_rounds=2)
    feed.micro_batches(0)
    assert len(asked) == 3 * 4 and feed.figures["replaced_groups"] == 0


def test_a_group_that_could_not_be_graded_takes_no_place_from_one_that_could(make_feed: MakeFeed) -> None:
    calls: list[int] = []

    def reward(answer: Answer) -> float | None:
        calls.append(1)
        return None if len(calls) <= 4 else 0.0

    feed = make_feed(tiny_policy(), reward, prompts_per_step=1, num_generations=4, resample_rounds=1)
    assert feed.micro_batches(0) and feed.figures["idle"] == 1 and len(feed.units) == 4
