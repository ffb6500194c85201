"""Generations that teach nothing: they change no weight, are counted, and end a run that will not get better."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from rl_toys import TEMPERATURE, parity, tiny_policy

from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.rewards import Answer
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import policy_loss
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics

MakeFeed = Callable[..., OnPolicyFeed]


def train(model: Decoder, feed: OnPolicyFeed, folder: Path, steps: int) -> None:
    config = TrainConfig(
        learning_rate=1e-2, max_steps=steps, lr_scheduler_type="constant", weight_decay=0.1, logging_steps=1
    )
    loss = partial(policy_loss, epsilon=0.2, temperature=TEMPERATURE)
    fit(model, feed, loss, config, folder, device="cpu", seed=1, progress=SilentProgress())


def test_an_idle_update_moves_nothing_though_there_is_momentum(make_feed: MakeFeed, tmp_path: Path) -> None:
    alive = {"yes": True}

    def reward(answer: Answer) -> float:
        return parity(answer) if alive["yes"] else 0.0

    model = tiny_policy()
    feed = make_feed(model, reward)
    give = feed.micro_batches
    seen: list[dict[str, torch.Tensor]] = []

    def watched(step: int):
        alive["yes"] = step < 2
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return give(step)

    feed.micro_batches = watched  # type: ignore[method-assign]
    train(model, feed, tmp_path, 4)
    moved = [
        any(not torch.equal(value, later[name]) for name, value in before.items())
        for before, later in zip(seen, [*seen[1:], model.state_dict()])
    ]
    assert moved == [True, True, False, False]
    assert feed.figures["idle"] == 1
    assert all(line["skipped_steps"] == 0 for line in read_metrics(tmp_path))


def test_after_many_generations_in_a_row_it_says_what_to_do(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, lambda answer: 0.25, dead_generations=3)
    feed.micro_batches(0)
    feed.micro_batches(1)
    feed._held = None  # as after a resume: the count is in the buffer
    with pytest.raises(
        TrainingError, match=r"in 3 generations in a row .* earned the same .*0\.25 on average"
    ) as error:
        feed.micro_batches(2)
    assert "easier prompts" in str(error.value) and "num_generations" in str(error.value)


def test_a_generation_that_teaches_something_ends_the_row(policy: Decoder, make_feed: MakeFeed) -> None:
    now = {"step": 0}
    feed = make_feed(policy, lambda one: parity(one) if now["step"] == 2 else 0.0, dead_generations=3)
    for step in range(5):
        now["step"] = step
        feed.micro_batches(step)
    now["step"] = 5
    with pytest.raises(TrainingError, match="3 generations"):
        feed.micro_batches(5)


def test_a_policy_that_solves_everything_is_not_stopped(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, lambda answer: 1.0, dead_generations=1)
    for step in range(3):
        feed.micro_batches(step)
    assert feed.figures["idle"] == 1
