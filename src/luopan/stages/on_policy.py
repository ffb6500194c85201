"""What the stages that learn from rollouts do alike: prompts of tasks, the engine on the policy's weights, the check
before the first update, accuracy on held-out prompts sampled as in training, figures of what was sampled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from luopan.corpus.skills import Case, generate_cases
from luopan.errors import RecipeError, TrainingError
from luopan.evals.verifiers import grade
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion, Engine
from luopan.generate.replies import reply_text
from luopan.model.decoder import Decoder
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.rollouts import Prompt
from luopan.rl.scoring import token_logprobs
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.stages.measure import SUITE_SEED, engine_of
from luopan.tokens.batch import Doc
from luopan.tokens.chat import Conversation, encode_prompts
from luopan.train.device import autocast
from luopan.train.losses import token_scores
from luopan.train.skips import Skips

# Nats on a token. Cached and full passes round differently; in bf16 that is in the second digit.
RATIO_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}


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


def check_fits(spec: OnPolicySpec, prompts: Sequence[Prompt]) -> None:
    """RecipeError where the longest prompt with the longest answer is more than a row holds."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    if longest + spec.max_completion_length > spec.max_length:
        raise RecipeError(
            f"the longest prompt ({longest}) and max_completion_length ({spec.max_completion_length}) do not fit "
            f"max_length ({spec.max_length})",
            hint=f"Set max_length to at least {longest + spec.max_completion_length}.",
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


def training_prompts(spec: OnPolicySpec, chat: Chat, seed: int) -> list[Prompt]:
    """Training questions of every task, as many as its weight says."""
    total = sum(task.weight for task in spec.tasks)
    cases: list[Case] = []
    for number, task in enumerate(spec.tasks):
        count = max(1, round(spec.prompts * task.weight / total))
        options = {**task.options, "thinking": 1.0 if task.thinking else 0.0}
        cases += generate_cases(task.skill, count, seed + number, "train", **options)
    rows = [Conversation(case.messages, case.enable_thinking) for case in cases]
    return [
        Prompt(
            tuple(ids), grader(case), case.skill, case.enable_thinking, case.question,
            messages=tuple(case.messages), answer=case.answer, key=key,
        )
        for key, (case, ids) in enumerate(zip(cases, encode_prompts(chat.tokenizer, rows)))
    ]  # fmt: skip


def sampled_accuracy(spec: OnPolicySpec, chat: Chat) -> dict[str, Any]:
    """Verifier accuracy on held-out prompts of the tasks, sampled as in training: {"sampled": [mean score per prompt]}.

    The mean over `test_samples` answers (avg@k) is what the training raises; a greedy answer is one of many.
    """
    cases: list[Case] = []
    for task in spec.tasks if spec.test_cases else ():
        options = {**task.options, "thinking": float(task.thinking)}
        cases += generate_cases(task.skill, spec.test_cases, SUITE_SEED, "test", **options)
    each = spec.test_samples
    prompts = encode_prompts(chat.tokenizer, [Conversation(case.messages, case.enable_thinking) for case in cases])
    params = SamplingParams(max_new_tokens=spec.max_completion_length, temperature=spec.temperature)
    engine = PreciseEngine(engine_of(chat), chat.device, spec.precision)
    completions = engine.generate([prompt for prompt in prompts for _ in range(each)], params, seed=SUITE_SEED)
    scores = [
        grade(cases[i // each], reply_text(chat.tokenizer, done.tokens, prompts[i // each])).score
        for i, done in enumerate(completions)
    ]
    by_case = [[s for s in scores[i : i + each] if s is not None] for i in range(0, len(scores), each)]
    return {"sampled": [sum(known) / len(known) for known in by_case if known]}


def grader(case: Case) -> Callable[[str], float | None]:
    """The verifier's score of an answer to this case."""
    return lambda text: grade(case, text).score


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


@torch.no_grad()
def assert_ratio_is_one(chat: Chat, feed: OnPolicyFeed, spec: OnPolicySpec, out: Workspace) -> None:
    """Before the first update the trainer must see the log-probabilities that the engine sampled with.

    If it does not (another temperature, other masks, another attention), every update would be off, silently.
    """
    if (out.path / "checkpoints").exists():
        return
    with autocast(chat.device, spec.precision):
        half = torch.is_autocast_enabled(chat.device.type)
    tolerance = RATIO_TOLERANCE[torch.bfloat16 if half else torch.float32]
    for batch in feed.micro_batches(0):
        with autocast(chat.device, spec.precision):
            scores = token_scores(chat.model, batch.to(chat.device), spec.temperature)
        sampled = batch.per_token["old_logprobs"].flatten()[scores.places.cpu()]
        worst = float((scores.logprobs.cpu() - sampled).abs().max())
        if worst > tolerance:
            raise TrainingError(
                f"engine and trainer disagree by {worst:.2g} nats on a token before the first update",
                hint="This is a fault of the program; please report it with the recipe.",
            )
        out.progress.note(f"Engine and trainer agree within {worst:.1e} nats before the first update.")
