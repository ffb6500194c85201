"""Parts of the run of stages that learn from rollouts: the engine on the policy's weights, hooks that log what was
sampled and how held-out prompts are answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion, Engine
from luopan.model.decoder import Decoder
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.held_out import Exam, keep_exam, summary
from luopan.rl.rewards import reason
from luopan.rl.scoring import token_logprobs
from luopan.stages.common import Chat
from luopan.tokens.batch import Doc
from luopan.train.device import autocast
from luopan.train.skips import Skips


def update_plan(spec: OnPolicySpec, chat: Chat, seed: int) -> UpdatePlan:
    """How a generation is cut into updates."""
    return UpdatePlan(
        max_length=spec.max_length,
        pad_id=chat.pad_id,
        seed=seed,
        num_iterations=spec.num_iterations,
        steps_per_generation=spec.steps_per_generation,
        micro_batches=spec.gradient_accumulation_steps,
        # Experts' loads would count a shared prompt once.
        share_prompts=not any(chat.model.config.moe_layers),
        one_row=chat.device.type == "cpu",
    )


def scorer(model: Decoder, spec: OnPolicySpec, chat: Chat) -> Callable[[Sequence[Doc]], list[list[float]]]:
    """Log-probabilities of documents' trained tokens by a model, at the temperature of sampling."""
    return lambda docs: token_logprobs(
        model,
        docs,
        temperature=spec.temperature,
        max_length=spec.max_length,
        pad_id=chat.pad_id,
        precision=spec.precision,
    )


def rollout_figures(
    feed: OnPolicyFeed, every: int, last: int, folder: Path
) -> Callable[[int, Decoder], dict[str, float] | None]:
    """A hook of the loop: what the rollouts of the step were like, at the steps that are logged."""

    def hook(step: int, model: Decoder) -> dict[str, float] | None:
        if step % every and step != last:
            return None
        # From the file, because after a resume the checkpoint's step is logged again and was sampled long ago; by data
        # step, which is another one after the run went back.
        sampled = Skips(folder).data_step(step - 1)
        figures: dict[str, float] = json.loads(feed.figures_file(sampled).read_text(encoding="utf-8"))
        return figures

    return hook


def held_out_figures(
    exam: Exam, spec: OnPolicySpec, folder: Path, note: Callable[[str], None]
) -> Callable[[int, Decoder], dict[str, float] | None]:
    """A hook of the loop: held-out prompts answered every `eval_rollouts_steps` updates, but not at the end, which is
    measured anyway. The update is saved before; what fails here is said and costs the measurement, not the run."""

    def hook(step: int, model: Decoder) -> dict[str, float] | None:
        assert spec.eval_rollouts_steps is not None
        if step % spec.eval_rollouts_steps or step == spec.max_steps:
            return None
        training = model.training
        try:
            result = exam.take()
            keep_exam(folder, step, result)
            return summary(result)
        except Exception as error:
            note(f"WARNING: the held-out prompts were not measured at step {step}: {reason(error)}")
            return None
        finally:
            model.train(training)

    return hook


class PreciseEngine:
    """The engine in the precision that the trainer computes in, so that both see the same probabilities."""

    def __init__(self, engine: Engine, device: torch.device, precision: str) -> None:
        self.engine, self.device, self.precision = engine, device, precision

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
    ) -> list[Completion]:
        """As `Engine.generate`."""
        with autocast(self.device, self.precision):
            return self.engine.generate(prompts, params, seed=seed, request_ids=request_ids)
