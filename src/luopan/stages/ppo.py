"""Proximal policy optimisation, as in RLHF: policy, frozen reference, value model, and a reward model or verifiers.

The run is that of all stages that learn from rollouts (`stages.rewarded`); here is what is PPO's own. The value model
begins as the reward model, or as the policy, and is trained beside the policy by the same optimizer steps; it is kept
in `value/`, a folder like a reward model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from luopan.errors import RecipeError
from luopan.model.decoder import Decoder
from luopan.model.policy_value import PolicyAndValue, value_from_policy
from luopan.model.reward import family_of, save_reward
from luopan.recipe.ppo_specs import PpoSpec
from luopan.report.data import Figure
from luopan.rl.curriculum import PassRates
from luopan.rl.feed import Collector
from luopan.rl.groups import GroupCollector, RolloutSettings
from luopan.rl.ppo import PpoSettings
from luopan.rl.ppo_collector import PpoCollector, TokenColumns
from luopan.rl.reward_model import load_reward_model
from luopan.rl.scoring import token_values
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD, Chat
from luopan.stages.rewarded import Setup, Way, check_rewarded, labels, run_rewarded
from luopan.stages.tasks import tasks_fingerprint
from luopan.tokens.batch import Batch, Doc
from luopan.tokens.chat import stop_ids
from luopan.tokens.tokenizer import save_tokenizer
from luopan.train.loop import FitResult, LossFn
from luopan.train.ppo_loss import batch_values, ppo_loss
from luopan.train.tracking import read_metrics

VALUE_FOLDER = "value"
PAIR = "pair"


class Ppo:
    """See the module."""

    kind: ClassVar[str] = "ppo"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: PpoSpec) -> str:
        return tasks_fingerprint(spec)

    @staticmethod
    def check(spec: PpoSpec) -> None:
        check_rewarded(spec)

    @staticmethod
    def run(spec: PpoSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        return run_rewarded(spec, inputs, out, WAY)


def trained(setup: Setup) -> PolicyAndValue:
    """Policy and value model; made once, the collector and the end ask for the same."""
    if PAIR not in setup.extra:
        value = value_model(setup)
        family_of(value.config)  # ModelError now, and not when the trained value model is to be written
        setup.extra[PAIR] = PolicyAndValue(setup.chat.model, value)
    pair: PolicyAndValue = setup.extra[PAIR]
    return pair


def value_model(setup: Setup) -> Decoder:
    """A model with a score, from the reward model or from the policy. RecipeError where it reads other tokens."""
    spec: PpoSpec = setup.spec
    if spec.value_begins_with == "policy":
        return value_from_policy(setup.chat.model, setup.out.seed)
    artifact = setup.inputs["reward_model"][0]
    value, tokenizer = load_reward_model(artifact.model_path, device=setup.chat.device)
    if tokenizer.get_vocab() != setup.chat.tokenizer.get_vocab():
        raise RecipeError(
            "the reward model has another tokenizer than the policy, so it cannot read the policy's tokens",
            where=f"value_from, reward model {artifact.manifest.name}",
            hint="Set value_from: policy. As a reward it works: there it reads text.",
        )
    context = value.config.max_position_embeddings
    if spec.max_length > context:
        raise RecipeError(
            f"max_length {spec.max_length} is longer than the context of the reward model ({context} tokens)",
            where=f"value_from, reward model {artifact.manifest.name}",
            hint=f"Set max_length to at most {context}, or value_from: policy.",
        )
    return value


def collector(setup: Setup) -> Collector:
    """Answers, what they earned, and what the value model expected."""
    spec: PpoSpec = setup.spec
    assert setup.rewards is not None
    groups = GroupCollector(
        engine=setup.engine,
        decode=setup.decode,
        prompts=setup.tasks.prompts,
        rewards=setup.rewards,
        settings=RolloutSettings(
            prompts_per_step=spec.prompts_per_step,
            num_generations=spec.num_generations,
            sampling=setup.sampling,
            scale_rewards="none",
            resample_rounds=0,
            seed=setup.out.seed,
        ),
        folder=setup.folder,
        curriculum=None if spec.curriculum is None else PassRates(**spec.curriculum.model_dump()),
    )
    return PpoCollector(
        answers=groups.sampled,
        policy=setup.scorer(setup.chat.model),
        values=values_of(trained(setup).value, setup),
        reference=None if setup.reference is None else setup.scorer(setup.reference),
        settings=PpoSettings(
            kl_coef=spec.kl_coef,
            kl_estimator=spec.kl_estimator,
            kl_target=spec.kl_target,
            kl_horizon=spec.kl_horizon,
            gamma=spec.gamma,
            lam=spec.lam,
            whiten_rewards=spec.whiten_rewards,
        ),
        folder=setup.folder,
    )


def values_of(value: Decoder, setup: Setup) -> TokenColumns:
    """What the value model says of documents' trained tokens, as in training."""
    chat: Chat = setup.chat
    knobs: dict[str, Any] = {"max_length": setup.spec.max_length, "pad_id": chat.pad_id, "device": chat.device}

    def values(docs: Sequence[Doc]) -> list[list[float]]:
        return token_values(lambda batch: batch_values(value, batch), docs, precision=setup.spec.precision, **knobs)

    return values


def loss(setup: Setup) -> LossFn:
    """Both clipped losses."""
    spec: PpoSpec = setup.spec
    knobs: dict[str, Any] = {
        "cliprange": spec.cliprange,
        "cliprange_value": spec.cliprange_value,
        "vf_coef": spec.vf_coef,
    }
    both: Callable[[Any, Batch], Any] = partial(ppo_loss, temperature=spec.temperature, entropy=True, **knobs)
    return both


def keep_value(setup: Setup) -> None:
    """The trained value model in `value/`, in the form of a reward model."""
    folder = setup.out.path / VALUE_FOLDER
    tokenizer = setup.chat.tokenizer
    save_reward(trained(setup).value, folder, pad_token_id=setup.chat.pad_id, eos_token_id=stop_ids(tokenizer))
    save_tokenizer(tokenizer, folder)


def figures(setup: Setup, before: Mapping[str, Any], after: Mapping[str, Any], result: FitResult) -> list[Figure]:
    """How far it went from where it began, and whether the value model knows what it is worth."""
    found = []
    if setup.spec.kl_coef:
        found.append(
            Figure(
                name="KL from the input model",
                before=0.0,
                after=result.last.get("kl"),
                unit="nats",
                higher_is_better=None,
                help="per answer, in the last generation",
            )
        )
    losses = [line["value_loss"] for line in read_metrics(setup.out.path) if "value_loss" in line]
    if losses:
        found.append(
            Figure(
                name="value loss",
                before=losses[0],
                after=losses[-1],
                higher_is_better=False,
                headline=False,
                help="half the squared distance between what was expected and what came, per token while training",
            )
        )
    return found


def summary(setup: Setup, result: FitResult) -> str:
    """A sentence for the report."""
    spec: PpoSpec = setup.spec
    grader = f"rewarded by {setup.inputs['reward_model'][0].manifest.name}" if spec.reward_model else "graded by rule"
    return (
        f"{result.steps} updates, {spec.num_iterations} passes over each generation of {spec.prompts_per_step} prompts "
        f"of {labels(spec)}, {grader}; the value model began as the {spec.value_begins_with.replace('_', ' ')}."
    )


WAY = Way(
    kind="ppo",
    collector=collector,
    loss=loss,
    summary=summary,
    referenced=lambda spec: bool(spec.kl_coef > 0),
    model=trained,
    figures=figures,
    payload=keep_value,
)
