"""Rejection sampling and, in several rounds, expert iteration: the model is fine-tuned on its own right answers.

The run is that of all stages that learn from rollouts (`stages.rewarded`). What was kept stays in the stage's folder:
`kept.jsonl`, all rounds of it, readable as chat data by an `sft` stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from luopan.artifacts import atomic_write_text
from luopan.recipe.online_specs import RejectionSpec
from luopan.report.data import Figure
from luopan.rl.best_of import BestOfCollector, KeepSettings
from luopan.rl.feed import Collector
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD
from luopan.stages.online_dpo import answering
from luopan.stages.rewarded import Setup, Way, check_rewarded, labels, run_rewarded
from luopan.stages.tasks import tasks_fingerprint
from luopan.train.loop import FitResult, LossFn
from luopan.train.losses import causal_lm_loss
from luopan.train.ranks import world_size


class Rejection:
    """See the module."""

    kind: ClassVar[str] = "rejection"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: RejectionSpec) -> str:
        return tasks_fingerprint(spec)

    @staticmethod
    def check(spec: RejectionSpec) -> None:
        check_rewarded(spec)

    @staticmethod
    def run(spec: RejectionSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        return run_rewarded(spec, inputs, out, WAY)


def collector(setup: Setup) -> Collector:
    """The right answers of a round."""
    spec: RejectionSpec = setup.spec
    return BestOfCollector(
        answers=answering(setup, spec.num_generations, 0).drawn,
        settings=KeepSettings(
            min_reward=spec.min_reward,
            per_prompt=spec.per_prompt,
            least=setup.plan.steps_per_generation * world_size(),
        ),
        folder=setup.folder,
        model=setup.out.name,
    )


def loss(setup: Setup) -> LossFn:
    """Next-token prediction on what was kept."""
    return causal_lm_loss


def summary(setup: Setup, result: FitResult) -> str:
    """A sentence for the report."""
    spec: RejectionSpec = setup.spec
    return (
        f"{spec.rounds} rounds of {spec.num_generations} answers to {spec.prompts_per_step} prompts of {labels(spec)}; "
        f"{result.steps} updates on those that earned at least {spec.min_reward:g}, at most {spec.per_prompt} of a "
        "prompt."
    )


def keep_rows(setup: Setup) -> None:
    """What all rounds kept, in one file."""
    parts = sorted(setup.folder.glob("kept-*.jsonl"))
    atomic_write_text(setup.out.path / "kept.jsonl", "".join(part.read_text(encoding="utf-8") for part in parts))


def figures(setup: Setup, before: Mapping[str, Any], after: Mapping[str, Any], result: FitResult) -> list[Figure]:
    """What the last round kept."""
    spec: RejectionSpec = setup.spec
    kept = result.last.get("kept")
    if kept is None:
        return []
    help_text = f"of {spec.prompts_per_step * spec.num_generations} that were sampled, each at most once"
    return [Figure(name="answers kept in the last round", after=float(kept), headline=False, help=help_text)]


WAY = Way(
    kind="rejection",
    collector=collector,
    loss=loss,
    summary=summary,
    figures=figures,
    payload=keep_rows,
)
