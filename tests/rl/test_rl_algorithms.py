"""Every algorithm of a grpo stage, from rewards to updates, learns what all can: to begin with an even token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from rl_toys import PAD, TEMPERATURE, tiny_policy

from luopan.model.decoder import Decoder
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.scoring import token_logprobs
from luopan.tokens.batch import Doc
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import policy_loss
from luopan.train.progress import SilentProgress

MakeFeed = Callable[..., OnPolicyFeed]

KL = {"reward_beta": 0.02}
TWICE = {"num_iterations": 2}
ALGORITHMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GRPO": (TWICE, {"loss_type": "grpo"}),
    "Dr. GRPO": ({"scale_rewards": "none"}, {"loss_type": "dr_grpo", "max_completion_length": 8}),
    "DAPO": ({**TWICE, "resample_rounds": 1}, {"epsilon_high": 0.28}),
    "GSPO": (TWICE, {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02}),
    "CISPO": (TWICE, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "RLOO": ({**KL, "advantage": "rloo"}, {"loss_type": "rloo"}),
    "REINFORCE++": ({**KL, "advantage": "reinforce_pp", "num_generations": 1, "prompts_per_step": 24},
                    {"token_advantages": True}),
    "REINFORCE++, baseline": ({"advantage": "reinforce_pp_baseline"}, {"beta": 0.02, "kl_estimator": "k2"}),
}  # fmt: skip


def scorer(model: Decoder) -> Callable[[Sequence[Doc]], list[list[float]]]:
    return lambda docs: token_logprobs(
        model, docs, temperature=TEMPERATURE, max_length=40, pad_id=PAD, precision="fp32"
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_raises_the_reward(name: str, policy: Decoder, make_feed: MakeFeed) -> None:
    settings, knobs = ALGORITHMS[name]
    reference = scorer(tiny_policy()) if "reward_beta" in settings or "beta" in knobs else None
    parts = {} if reference is None else {"reference": reference}
    feed = make_feed(policy, **{"prompts_per_step": 12, **settings, **parts})
    config = TrainConfig(learning_rate=3e-3, max_steps=8, lr_scheduler_type="constant", logging_steps=1)
    loss = partial(policy_loss, temperature=TEMPERATURE, **knobs)
    measured = make_feed(policy, prompts_per_step=24, num_generations=8, folder=feed.folder.parent / "measured")
    measured.micro_batches(0)
    before = measured.figures["reward"]
    fit(policy, feed, loss, config, feed.folder.parent / "run", device="cpu", seed=1, progress=SilentProgress())
    measured.micro_batches(0)
    assert measured.figures["reward"] > before + 0.1, (before, measured.figures["reward"])
