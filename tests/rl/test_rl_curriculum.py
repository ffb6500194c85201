"""Draws by how often prompts were solved: weights by hand, carried from generation to generation, and over a kill."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from rl_toys import TEMPERATURE, parity, prompts, tiny_policy

from luopan.model.decoder import Decoder
from luopan.rl.curriculum import PassRates, figures
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.groups import GroupCollector
from luopan.rl.log import read_log
from luopan.rl.rewards import Answer
from luopan.rl.rollouts import Prompt
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import policy_loss
from luopan.train.progress import SilentProgress

MakeFeed = Callable[..., OnPolicyFeed]


def keyed() -> list[Prompt]:
    return [replace(prompt, key=key) for key, prompt in enumerate(prompts())]


def easy_first_half(answer: Answer) -> float:
    """Right whatever is said for the first twelve prompts, by its first token for the others."""
    return 1.0 if answer.prompt.key < 12 else parity(answer)


def test_chances_by_hand() -> None:
    rates = PassRates(target=0.5, width=0.25, floor=0.2, starts_at=0.5)
    chances = rates.chances({"solved/0": 1.0, "solved/2": 0.25}, 3)
    weights = [0.2 + 0.8 * math.exp(-2), 1.0, 0.2 + 0.8 * math.exp(-0.5)]
    assert chances.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_running_shares_by_hand() -> None:
    rates = PassRates(decay=0.75, starts_at=0.5)
    once = rates.after({}, [(3, 1.0), (1, 0.0)])
    assert once == {"solved/1": 0.375, "solved/3": 0.625}
    twice = rates.after(once, [(3, 1.0), (3, 1.0)])
    assert twice == {"solved/1": 0.375, "solved/3": pytest.approx(1 - 0.375 * 0.75**2)}
    seen = figures({"solved/1": 0.05, "solved/3": 0.95, "dead_generations": 4.0})
    assert seen == {
        "curriculum/drawn": 2, "curriculum/share": 0.5, "curriculum/solved": 1, "curriculum/out_of_reach": 1,
    }  # fmt: skip


def generations(feed: OnPolicyFeed, count: int) -> list[list[int]]:
    """Which prompts are drawn, generation by generation."""
    drawn = []
    for step in range(count):
        feed.micro_batches(step)
        drawn.append([int(group["task"][1:]) for group in read_log(feed.folder, step)])
    return drawn


def test_solved_prompts_are_drawn_less_often_and_never_twice_in_a_draw(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, easy_first_half, prompts=keyed(), folder=make_feed(policy).folder / "with")
    cast(GroupCollector, feed.collector).curriculum = PassRates(decay=0.2, floor=0.02)
    with_it = generations(feed, 24)
    without = generations(make_feed(policy, easy_first_half, prompts=keyed()), 24)
    late, plain = (np.mean([key < 12 for drawn in runs[8:] for key in drawn]) for runs in (with_it, without))
    assert late < 0.25 < 0.4 < plain
    assert all(len(set(drawn)) == 6 for drawn in with_it)
    assert feed.figures["curriculum/solved"] > 6 and feed.figures["curriculum/drawn"] > 18


def sitting(folder: Path, make_feed: MakeFeed, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """Two updates by two passes on every generation, with a curriculum; killed when the batches of `stop_at` are asked
    for."""
    model = tiny_policy()
    feed = make_feed(
        model, easy_first_half, prompts=keyed(), folder=folder / "rollouts", num_iterations=2, steps_per_generation=2
    )
    cast(GroupCollector, feed.collector).curriculum = PassRates(floor=0.02, decay=0.2)
    give = feed.micro_batches

    def until(step: int) -> Any:
        if step == stop_at:
            raise KeyboardInterrupt
        return give(step)

    feed.micro_batches = until  # type: ignore[method-assign]
    config = TrainConfig(learning_rate=3e-3, max_steps=14, save_steps=3, logging_steps=1, lr_scheduler_type="constant")
    loss = partial(policy_loss, epsilon=0.2, temperature=TEMPERATURE)
    try:
        fit(model, feed, loss, config, folder, device="cpu", seed=1, progress=SilentProgress())
    except KeyboardInterrupt:
        assert stop_at is not None
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_killed_and_resumed_equals_never_killed(tmp_path: Path, make_feed: MakeFeed) -> None:
    alone = sitting(tmp_path / "alone", make_feed)
    for stop_at in (5, 8, 11):  # in the middle of a generation, at the first update of one, behind a save
        sitting(tmp_path / "killed", make_feed, stop_at)
    killed = sitting(tmp_path / "killed", make_feed)
    assert all(torch.equal(value, alone[name]) for name, value in killed.items())
    for step in (8, 12):
        one, other = (list(read_log(tmp_path / name / "rollouts", step)) for name in ("alone", "killed"))
        assert one == other
