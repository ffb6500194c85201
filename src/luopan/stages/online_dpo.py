"""Online and semi-online DPO: the model answers, its answers are graded, the better of a prompt beat the worse.

The run is that of all stages that learn from rollouts (`stages.rewarded`). The reference is the input model, frozen;
its log-probabilities are computed with each generation and kept in the buffer, at temperature 1, whatever was sampled
at: DPO's implicit reward is one of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from luopan.errors import RecipeError
from luopan.model.decoder import Decoder
from luopan.objectives.config import loss_types, needs_reference
from luopan.recipe.online_specs import OnlineDpoSpec
from luopan.rl.feed import Collector
from luopan.rl.groups import GroupCollector, RolloutSettings
from luopan.rl.online_pairs import PairCollector, PairSettings
from luopan.rl.scoring import token_logprobs
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD
from luopan.stages.rewarded import Setup, Way, check_rewarded, labels, run_rewarded
from luopan.stages.tasks import tasks_fingerprint
from luopan.tokens.batch import Doc
from luopan.train.loop import FitResult, LossFn
from luopan.train.online_loss import online_preference_loss
from luopan.train.ranks import world_size


class OnlineDpo:
    """See the module."""

    kind: ClassVar[str] = "online_dpo"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: OnlineDpoSpec) -> str:
        return tasks_fingerprint(spec)

    @staticmethod
    def check(spec: OnlineDpoSpec) -> None:
        check_rewarded(spec)

    @staticmethod
    def run(spec: OnlineDpoSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        return run_rewarded(spec, inputs, out, WAY)


def collector(setup: Setup) -> Collector:
    """Pairs of graded answers."""
    spec: OnlineDpoSpec = setup.spec
    check_pairs_fit(setup)
    return PairCollector(
        answers=answering(setup, spec.num_generations, spec.resample_rounds).drawn,
        reference=None if setup.reference is None else reference_scorer(setup, setup.reference),
        settings=PairSettings(
            choice=spec.choice,
            margin=spec.min_margin,
            pairs=spec.prompts_per_step,
            least=setup.plan.steps_per_generation * world_size(),
            dead_generations=spec.dead_generations,
        ),
        folder=setup.folder,
    )


def answering(setup: Setup, num_generations: int, resample_rounds: int) -> GroupCollector:
    """Who draws prompts, has them answered and the answers graded."""
    assert setup.rewards is not None
    return GroupCollector(
        engine=setup.engine,
        decode=setup.decode,
        prompts=setup.tasks.prompts,
        rewards=setup.rewards,
        settings=RolloutSettings(
            prompts_per_step=setup.spec.prompts_per_step,
            num_generations=num_generations,
            sampling=setup.sampling,
            scale_rewards="none",
            resample_rounds=resample_rounds,
            seed=setup.out.seed,
        ),
        folder=setup.folder,
    )


def reference_scorer(setup: Setup, model: Decoder) -> Callable[[Sequence[Doc]], list[list[float]]]:
    """Log-probabilities of documents' trained tokens at temperature 1, as the loss computes the policy's."""
    spec, chat = setup.spec, setup.chat
    return partial(
        token_logprobs,
        model,
        temperature=1.0,
        max_length=spec.max_length,
        pad_id=chat.pad_id,
        precision=spec.precision,
    )


def check_pairs_fit(setup: Setup) -> None:
    """RecipeError where both answers of the longest pair are more than a row holds."""
    spec: OnlineDpoSpec = setup.spec
    longest = max(len(prompt.input_ids) for prompt in setup.tasks.prompts)
    needed = longest * (1 if setup.plan.share_prompts else 2) + 2 * spec.max_completion_length
    if needed > spec.max_length:
        raise RecipeError(
            f"the longest prompt ({longest}) with two answers of max_completion_length "
            f"({spec.max_completion_length}) does not fit max_length ({spec.max_length})",
            hint=f"Set max_length to at least {needed}: both answers of a pair share a row.",
        )


def loss(setup: Setup) -> LossFn:
    """The preference losses that are set."""
    spec: OnlineDpoSpec = setup.spec
    knobs = ("beta", "loss_type", "label_smoothing", "nll_coef", "loss_weights", "simpo_gamma")
    return partial(online_preference_loss, **{name: getattr(spec, name) for name in knobs})


def summary(setup: Setup, result: FitResult) -> str:
    """A sentence for the report."""
    spec: OnlineDpoSpec = setup.spec
    updates = spec.num_iterations * spec.steps_per_generation
    synced = "online" if updates == 1 else f"semi-online, sampled anew every {updates} updates"
    return (
        f"{result.steps} updates on pairs of {spec.num_generations} answers to {spec.prompts_per_step} prompts of "
        f"{labels(spec)} ({synced}); {', '.join(loss_types(spec.loss_type))}, beta {spec.beta:g}."
    )


WAY = Way(
    kind="online_dpo",
    collector=collector,
    loss=loss,
    summary=summary,
    referenced=lambda spec: needs_reference(spec.loss_type),
)
