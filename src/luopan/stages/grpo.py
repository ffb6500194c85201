"""Group-relative policy optimisation: the model answers, its answers are graded, what beat its group is made likelier.

The run is that of all stages that learn from rollouts (`stages.rewarded`); here is what is GRPO's own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from luopan.model.decoder import Decoder
from luopan.recipe.rl_specs import GrpoSpec
from luopan.rl.curriculum import PassRates
from luopan.rl.feed import Collector, OnPolicyFeed
from luopan.rl.groups import GroupCollector, RolloutSettings
from luopan.rl.stale import StalePolicy, generations_behind
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD, Chat
from luopan.stages.rewarded import Setup, Way, check_rewarded, feed_of, labels, run_rewarded, set_up
from luopan.stages.tasks import tasks_fingerprint
from luopan.train.loop import FitResult, LossFn
from luopan.train.losses import policy_loss


class Grpo:
    """See the module."""

    kind: ClassVar[str] = "grpo"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: GrpoSpec) -> str:
        return tasks_fingerprint(spec)

    @staticmethod
    def check(spec: GrpoSpec) -> None:
        check_rewarded(spec)

    @staticmethod
    def run(spec: GrpoSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        return run_rewarded(spec, inputs, out, WAY)


def collector(setup: Setup) -> Collector:
    """Groups of answers."""
    spec: GrpoSpec = setup.spec
    assert setup.rewards is not None
    stale = stale_policy(setup)
    return GroupCollector(
        engine=setup.engine if stale is None else setup.sampler(stale.model),
        decode=setup.decode,
        prompts=setup.tasks.prompts,
        rewards=setup.rewards,
        settings=RolloutSettings(
            prompts_per_step=spec.prompts_per_step,
            num_generations=spec.num_generations,
            sampling=setup.sampling,
            scale_rewards=spec.scale_rewards,
            resample_rounds=0 if spec.advantage == "reinforce_pp" else spec.resample_rounds,
            seed=setup.out.seed,
            advantage=spec.advantage,
            reward_beta=spec.beta if spec.kl_in == "reward" else 0.0,
            kl_estimator=spec.divergence,
            dead_generations=spec.dead_generations,
        ),
        folder=setup.folder,
        reference=None if setup.reference is None else setup.scorer(setup.reference),
        trainer=None if spec.importance_cap is None else setup.scorer(setup.chat.model),
        stale=stale,
        curriculum=None if spec.curriculum is None else PassRates(**spec.curriculum.model_dump()),
    )


def stale_policy(setup: Setup) -> StalePolicy | None:
    """What samples, where the recipe allows it to be older than the policy."""
    spec: GrpoSpec = setup.spec
    if not spec.policy_lag:
        return None
    updates = setup.plan.updates
    return StalePolicy(setup.chat.model, generations_behind(spec.policy_lag, updates), updates, setup.folder)


def loss(setup: Setup) -> LossFn:
    """The policy loss that the recipe asks for."""
    spec: GrpoSpec = setup.spec
    return partial(
        policy_loss,
        temperature=spec.temperature,
        entropy=True,
        importance_cap=spec.importance_cap,
        token_advantages=spec.advantage == "reinforce_pp",
        **spec.loss_knobs,
    )


def summary(setup: Setup, result: FitResult) -> str:
    """A sentence for the report."""
    spec: GrpoSpec = setup.spec
    return (
        f"{result.steps} updates on {spec.num_generations} answers to {spec.prompts_per_step} prompts each of "
        f"{labels(spec)}."
    )


WAY = Way(kind="grpo", collector=collector, loss=loss, summary=summary, referenced=lambda spec: bool(spec.beta > 0))


def build_feed(
    spec: GrpoSpec, chat: Chat, out: Workspace, reference: Decoder | None = None, inputs: Inputs | None = None
) -> OnPolicyFeed:
    """The stage's feed over a model that is at hand; for benchmarks and tests."""
    setup = set_up(spec, inputs or {}, out, chat, WAY)
    return feed_of(replace(setup, reference=reference), WAY)
