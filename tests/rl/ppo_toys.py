"""PPO on a tiny policy with random weights: what the tests of one process and of two have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rl_toys import PAD, STOP, TEMPERATURE, prompts, tiny_policy

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.decoder import Decoder
from luopan.model.policy_value import PolicyAndValue, value_from_policy
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.ppo import PpoSettings
from luopan.rl.ppo_collector import Graded, PpoCollector
from luopan.rl.rollouts import Rollout
from luopan.rl.scoring import token_logprobs, token_values
from luopan.tokens.batch import Batch, Doc
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.ppo_loss import batch_values, ppo_loss
from luopan.train.progress import SilentProgress
from luopan.train.ranks import gather_objects, share

LENGTH, ANSWERS = 40, 24
ADAPTIVE = PpoSettings(kl_coef=0.1, kl_target=0.05, kl_horizon=4 * ANSWERS)


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it and tidy up."""


def tiny_pair() -> PolicyAndValue:
    policy = tiny_policy()
    return PolicyAndValue(policy, value_from_policy(policy, seed=1))


def sampled(policy: Decoder, generation: int) -> tuple[list[Graded], dict[str, float], dict[str, float]]:
    """An answer to each of the prompts, rewarded for an odd first token; each rank samples its share."""
    asked = prompts(ANSWERS)
    mine = share(range(ANSWERS))
    done = Engine(policy, eos_ids=[STOP], pad_id=PAD).generate(
        [asked[number].input_ids for number in mine],
        SamplingParams(max_new_tokens=8, temperature=TEMPERATURE),
        seed=generation,
        request_ids=list(mine),
    )
    rollouts = [
        Rollout(tuple(one.tokens), tuple(one.logprobs), "", one.finish_reason, float(one.tokens[0] % 2)) for one in done
    ]
    everything = [one for part in gather_objects(rollouts) for one in part]
    reward = float(np.mean([one.reward for one in everything]))
    return [(prompt, [one]) for prompt, one in zip(asked, everything, strict=True)], {"reward": reward}, {}


def make_feed(pair: PolicyAndValue, folder: Path, settings: PpoSettings = ADAPTIVE, **plan: int) -> OnPolicyFeed:
    reference = tiny_policy()
    knobs: dict[str, Any] = {"max_length": LENGTH, "pad_id": PAD, "precision": "fp32"}

    def values(docs: Any) -> list[list[float]]:
        def score(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            return batch_values(pair.value, batch)

        return token_values(score, docs, device=torch.device("cpu"), **knobs)

    def now(docs: Any) -> list[list[float]]:
        return token_logprobs(pair.policy, docs, temperature=TEMPERATURE, **knobs)

    def before(docs: Any) -> list[list[float]]:
        return token_logprobs(reference, docs, temperature=TEMPERATURE, **knobs)

    collector = PpoCollector(
        answers=lambda generation, carry: sampled(pair.policy, generation),
        policy=now,
        values=values,
        reference=before if settings.kl_coef else None,
        settings=settings,
        folder=folder / "rollouts",
    )
    sizes = {"num_iterations": 2, "steps_per_generation": 2, "micro_batches": 2, **plan}
    return OnPolicyFeed(collector, UpdatePlan(max_length=LENGTH, pad_id=PAD, seed=5, **sizes), folder / "rollouts")


def train(
    folder: Path, steps: int = 12, stop_at: int | None = None, settings: PpoSettings = ADAPTIVE
) -> PolicyAndValue:
    """PPO from where `folder` stands; killed when it asks for the batches of `stop_at`."""
    pair = tiny_pair()
    feed = make_feed(pair, folder, settings)
    give = feed.micro_batches

    def until(step: int) -> Any:
        if step == stop_at:
            raise Killed
        return give(step)

    feed.micro_batches = until  # type: ignore[method-assign]
    config = TrainConfig(
        learning_rate=3e-3, max_steps=steps, logging_steps=1, save_steps=3, lr_scheduler_type="constant",
        spike_sigma=None, adam_epsilon=1e-5,
    )  # fmt: skip

    def loss(model: Any, batch: Batch) -> Any:
        return ppo_loss(model, batch, temperature=TEMPERATURE, vf_coef=0.5)

    fit(
        cast(Decoder, pair), feed, loss, config, folder, device="cpu", seed=1, progress=SilentProgress(),
        hooks=[lambda step, model: json.loads(feed.figures_file(step - 1).read_text())],
    )  # fmt: skip
    return pair


def weights(pair: PolicyAndValue) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in pair.state_dict().items()}


def answers_in(docs: list[Doc]) -> list[list[int]]:
    return [list(doc.input_ids[len(doc) - doc.num_trained :]) for doc in docs]
