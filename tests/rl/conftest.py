"""The policy, and feeds over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rl_toys import PAD, STOP, TEMPERATURE, parity, prompts, rewards_of, tiny_policy

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.decoder import Decoder
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.groups import GroupCollector, RolloutSettings

PARTS = ("prompts", "folder", "reference", "trainer", "stale")


@pytest.fixture
def policy() -> Decoder:
    return tiny_policy()


@pytest.fixture
def make_feed(tmp_path: Path) -> Callable[..., OnPolicyFeed]:
    def make(model: Decoder, reward: Any = parity, **changes: Any) -> OnPolicyFeed:
        parts = {key: changes.pop(key) for key in PARTS if key in changes}
        plan: dict[str, Any] = {"max_length": 40, "micro_batches": 1, "num_iterations": 1, "steps_per_generation": 1}
        plan |= {"share_prompts": False, "one_row": False}
        plan |= {key: changes.pop(key) for key in plan if key in changes}
        settings: dict[str, Any] = {
            "prompts_per_step": 6, "num_generations": 4, "scale_rewards": "group", "resample_rounds": 0, "seed": 5,
            "sampling": SamplingParams(max_new_tokens=8, temperature=TEMPERATURE), **changes,
        }  # fmt: skip
        folder = parts.pop("folder", tmp_path / "rollouts")
        collector = GroupCollector(
            engine=Engine(model, eos_ids=[STOP], pad_id=PAD),
            decode=lambda tokens, _prompt: " ".join(map(str, tokens)),
            rewards=rewards_of(reward),
            settings=RolloutSettings(**settings),
            folder=folder,
            **{"prompts": prompts(), **parts},
        )
        return OnPolicyFeed(collector, UpdatePlan(pad_id=PAD, seed=settings["seed"], **plan), folder)

    return make
