"""The policy, and feeds over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rl_toys import PAD, STOP, TEMPERATURE, parity, prompts, tiny_policy

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.decoder import Decoder
from luopan.rl.feed import RolloutFeed, RolloutSettings


@pytest.fixture
def policy() -> Decoder:
    return tiny_policy()


@pytest.fixture
def make_feed(tmp_path: Path) -> Callable[..., RolloutFeed]:
    def make(model: Decoder, reward: Any = parity, **changes: Any) -> RolloutFeed:
        feed_keys = {key: changes.pop(key) for key in ("prompts", "folder") if key in changes}
        settings: dict[str, Any] = {
            "prompts_per_step": 6, "num_generations": 4, "max_length": 40, "micro_batches": 1,
            "sampling": SamplingParams(max_new_tokens=8, temperature=TEMPERATURE), "scale_rewards": "group",
            "resample_rounds": 0, "seed": 5,
        }  # fmt: skip
        return RolloutFeed(
            engine=Engine(model, eos_ids=[STOP], pad_id=PAD),
            decode=lambda tokens, _prompt: " ".join(map(str, tokens)),
            reward=reward,
            settings=RolloutSettings(**{**settings, **changes}),
            pad_id=PAD,
            **{"prompts": prompts(), "folder": tmp_path / "rollouts", **feed_keys},
        )

    return make
