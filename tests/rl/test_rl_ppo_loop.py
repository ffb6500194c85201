"""PPO in the one loop: learns, adapts its coefficient, resumes to the bit in the middle of a generation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ppo_toys import ADAPTIVE, ANSWERS, Killed, answers_in, make_feed, tiny_pair, train, weights
from rl_toys import prompts

from luopan.errors import TrainingError
from luopan.rl.log import read_log
from luopan.rl.ppo import PpoSettings
from luopan.rl.ppo_collector import PpoCollector
from luopan.rl.rollouts import Rollout
from luopan.train.tracking import read_metrics

PLAIN = PpoSettings(kl_coef=0.0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    torch.save(weights(train(folder)), folder / "weights.pt")
    return folder


@pytest.mark.parametrize("stop_at", [5, 6, 10])  # generations have four updates, checkpoints come every three
def test_killed_in_a_generation_equals_never_killed(tmp_path: Path, alone: Path, stop_at: int) -> None:
    with pytest.raises(Killed):
        train(tmp_path, stop_at=stop_at)
    again = weights(train(tmp_path))
    whole = torch.load(alone / "weights.pt")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    one, other = (
        [{k: v for k, v in line.items() if "second" not in k and "memory" not in k and k != "alarms"} for line in lines]
        for lines in (read_metrics(tmp_path), read_metrics(alone))
    )
    assert one == other
    for file in sorted((alone / "rollouts").glob("step-*.jsonl")):
        assert file.read_bytes() == (tmp_path / "rollouts" / file.name).read_bytes()


def test_policy_and_value_both_learn_and_the_coefficient_adapts(alone: Path) -> None:
    before, after = weights(tiny_pair()), torch.load(alone / "weights.pt")
    for part in ("policy.", "value."):
        assert all(not torch.equal(before[name], after[name]) for name in before if name.startswith(part))
    coefficients = [line["kl_coef"] for line in read_metrics(alone)]
    assert coefficients[:4] == [0.1] * 4  # one per generation
    # The first answers are the reference's own: no divergence, 20% too little of it, a quarter of the horizon.
    assert coefficients[4:8] == pytest.approx([0.1 * (1 - 0.2 / 4)] * 4)
    assert coefficients[8] != coefficients[4]


def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    train(tmp_path, steps=48, settings=PLAIN)
    lines = read_metrics(tmp_path)
    rewards = [line["reward"] for line in lines]
    assert np.mean(rewards[-8:]) > np.mean(rewards[:4]) + 0.3, rewards
    assert lines[-1]["value_loss"] < 0.4 * lines[0]["value_loss"]
    assert lines[0]["value"] < 0.2 and lines[-1]["value"] > 0.5
    assert "kl" not in lines[-1]


def test_the_log_says_what_every_answer_was_worth(alone: Path) -> None:
    records = list(read_log(alone / "rollouts", 0))
    answers = [answer for one in records for answer in one["answers"]]
    assert len(records) == len(answers) == ANSWERS
    assert {"reward", "advantage", "value", "tokens", "logprobs"} <= set(answers[0])
    good = [a["advantage"] for a in answers if a["reward"] == 1.0]
    bad = [a["advantage"] for a in answers if a["reward"] == 0.0]
    assert np.mean(good) > np.mean(bad)
    assert len({a["value"] for a in answers}) > 1


def test_answers_without_a_reward_are_logged_and_not_learned_from(tmp_path: Path) -> None:
    pair = tiny_pair()
    feed = make_feed(pair, tmp_path, PLAIN, num_iterations=1, steps_per_generation=1)
    collector = feed.collector
    assert isinstance(collector, PpoCollector)
    one, other = prompts(2)
    graded = [
        (one, [Rollout((5, 6), (-1.0, -1.0), "", "stop", 1.0), Rollout((7,), (-1.0,), "", "length", None)]),
        (other, [Rollout((8, 9), (-1.0, -1.0), "", "stop", 0.0)]),
    ]
    collector.answers = lambda generation, carry: (graded, {}, {})
    found = collector.collect(0, 0, {})
    assert answers_in([doc for unit in found.units for doc in unit]) == [[5, 6], [8, 9]]
    first = next(iter(read_log(tmp_path / "rollouts", 0)))["answers"]
    assert first[1]["reward"] is None and first[1]["advantage"] == 0.0 and first[0]["advantage"] != 0.0
    collector.answers = lambda generation, carry: ([(one, [graded[0][1][1]])], {}, {})
    with pytest.raises(TrainingError, match="nothing to learn from"):
        collector.collect(0, 0, {})


def test_a_carried_coefficient_is_the_one_that_counts(tmp_path: Path) -> None:
    feed = make_feed(tiny_pair(), tmp_path, ADAPTIVE)
    assert feed.collector.collect(1, 4, {"kl_coef": 0.7}).figures["kl_coef"] == 0.7
    assert feed.collector.collect(1, 4, {}).figures["kl_coef"] == ADAPTIVE.kl_coef


def test_the_gap_between_engine_and_trainer_is_logged(tmp_path: Path, alone: Path) -> None:
    assert all(line["logprob_gap"] <= line["logprob_gap_max"] < 1e-4 for line in read_metrics(alone))
    feed = make_feed(tiny_pair(), tmp_path, PLAIN)
    collector = feed.collector
    assert isinstance(collector, PpoCollector)
    graded = [(prompts(1)[0], [Rollout((5, 6), (-1.0, -2.0), "", "stop", 1.0)])]
    collector.answers = lambda generation, carry: (graded, {}, {})
    collector.policy = lambda docs: [[0.0] * (len(docs[0]) - 2) + [-1.5, -2.1]]
    figures = collector.collect(0, 0, {}).figures
    assert figures["logprob_gap"] == pytest.approx(0.3) and figures["logprob_gap_max"] == pytest.approx(0.5)


def test_what_the_answers_carry_and_the_coefficient_are_kept_together(tmp_path: Path) -> None:
    feed = make_feed(tiny_pair(), tmp_path, ADAPTIVE)
    collector = feed.collector
    assert isinstance(collector, PpoCollector)
    answers, told = collector.answers, []

    def counting(generation: int, carry: Mapping[str, float]) -> Any:
        told.append(dict(carry))
        return (*answers(generation, carry)[:2], {"visits": carry.get("visits", 0.0) + 1})

    collector.answers = counting
    feed.micro_batches(0)
    feed.micro_batches(4)
    assert told[0] == {} and told[1]["visits"] == 1.0
    assert told[1]["kl_coef"] == feed.figures["kl_coef"] != ADAPTIVE.kl_coef
