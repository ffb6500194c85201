"""Group-relative policy optimisation: the model answers, a verifier grades, what beat its group is made likelier.

Rewards come from the task's own verifier; a small reward for a well-formed thinking block may be added. Held-out cases
are graded greedily before and after; reward and length of the answers are plotted, because a length that runs away is
the first sign of a policy that games its reward.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from luopan.corpus.skills import Case, generate_cases
from luopan.errors import RecipeError, TrainingError
from luopan.evals.skills import standard_error
from luopan.evals.verifiers import grade, thinking_format
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion, Engine
from luopan.generate.replies import reply_text
from luopan.model.decoder import Decoder
from luopan.recipe.specs import GrpoSpec
from luopan.report.data import Figure
from luopan.rl.feed import RolloutFeed, RolloutSettings
from luopan.rl.rollouts import Prompt
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    check_length,
    fit_metrics,
    open_model,
    save_model,
    start_device,
    train,
    training_report,
)
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.measure import (
    SUITE_SEED,
    check_skill,
    check_suite,
    engine_of,
    samples_of,
    skill_bars,
    suite_after,
    suite_figures,
    suite_of,
)
from luopan.tokens.batch import Batch
from luopan.tokens.chat import Conversation, encode_prompts
from luopan.train.device import autocast
from luopan.train.losses import policy_loss, token_scores
from luopan.train.preflight import check_training
from luopan.train.skips import Skips

# Nats on a token. Cached and full passes round differently; in bf16 that is in the second digit.
RATIO_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}


class Grpo:
    """See the module."""

    kind: ClassVar[str] = "grpo"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: GrpoSpec) -> str:
        return ""

    @staticmethod
    def check(spec: GrpoSpec) -> None:
        check_training(spec)
        for task in spec.tasks:
            check_skill(task.skill, task.options, task.thinking)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: GrpoSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        chat = open_model(inputs["model"][0], device)
        check_length(spec.max_length, chat)
        before = out.remember(
            "before", lambda: {**suite_of(inputs["model"][0], chat, spec.suite), **sampled_accuracy(spec, chat)}
        )
        feed = build_feed(spec, chat, out)
        reference = open_model(inputs["model"][0], device).model if spec.beta else None
        source = WithReference(feed, reference, spec, device) if reference is not None else feed
        assert_ratio_is_one(chat, feed, spec, out)
        knobs: dict[str, Any] = {"epsilon": spec.epsilon, "beta": spec.beta, "loss_type": spec.loss_type}
        if spec.epsilon_high is not None:
            knobs["epsilon_high"] = spec.epsilon_high
        if spec.loss_type == "dr_grpo":
            knobs["max_completion_length"] = spec.max_completion_length
        loss = partial(policy_loss, temperature=spec.temperature, entropy=True, **knobs)
        hooks = [rollout_figures(feed, spec.logging_steps, spec.max_steps, out.path)]
        result = train(chat, source, loss, spec, out, hooks=hooks)
        after = {**suite_after(out.path, chat, spec.suite), **sampled_accuracy(spec, chat)}
        save_model(chat, out.path)
        figures = _figures(spec, before, after, result.last)
        report = training_report(
            "grpo",
            out.name,
            chat,
            result,
            spec.max_length,
            summary=f"{result.steps} updates on {spec.num_generations} answers to {spec.prompts_per_step} prompts each "
            f"of {', '.join(task.skill for task in spec.tasks)}, graded by their verifiers.",
            figures=figures,
            pictures=[skill_bars("Held-out skills", before, after, (chat.origin, out.name))]
            if spec.suite.tests
            else [],
            samples=samples_of(after, out.name),
        )
        write_report(out.path, report)
        return metrics_of(figures, **fit_metrics(result), reward=result.last.get("reward"))


def build_feed(spec: GrpoSpec, chat: Chat, out: Workspace) -> RolloutFeed:
    """Prompts of the tasks in their shares, the verifiers as rewards, the engine on the policy's own weights."""
    settings = RolloutSettings(
        prompts_per_step=spec.prompts_per_step,
        num_generations=spec.num_generations,
        sampling=SamplingParams(max_new_tokens=spec.max_completion_length, temperature=spec.temperature),
        max_length=spec.max_length,
        micro_batches=spec.gradient_accumulation_steps,
        scale_rewards=spec.scale_rewards,
        resample_rounds=spec.resample_rounds,
        seed=out.seed,
    )
    prompts = training_prompts(spec, chat, out.seed)
    longest = max(len(prompt.input_ids) for prompt in prompts)
    if longest + spec.max_completion_length > spec.max_length:
        raise RecipeError(
            f"the longest prompt ({longest}) and max_completion_length ({spec.max_completion_length}) do not fit "
            f"max_length ({spec.max_length})",
            hint=f"Set max_length to at least {longest + spec.max_completion_length}.",
        )
    return RolloutFeed(
        engine=PreciseEngine(engine_of(chat), chat.device, spec.precision),
        decode=partial(reply_text, chat.tokenizer),
        prompts=prompts,
        reward=partial(reward, format_reward=spec.format_reward),
        settings=settings,
        folder=out.path / "rollouts",
        pad_id=chat.pad_id,
    )


def training_prompts(spec: GrpoSpec, chat: Chat, seed: int) -> list[Prompt]:
    """Training questions of every task, as many as its weight says."""
    total = sum(task.weight for task in spec.tasks)
    cases: list[Case] = []
    for number, task in enumerate(spec.tasks):
        count = max(1, round(spec.prompts * task.weight / total))
        options = {**task.options, "thinking": 1.0 if task.thinking else 0.0}
        cases += generate_cases(task.skill, count, seed + number, "train", **options)
    rows = [Conversation(case.messages, case.enable_thinking) for case in cases]
    return [
        Prompt(tuple(ids), grader(case), case.skill, case.enable_thinking, case.question)
        for case, ids in zip(cases, encode_prompts(chat.tokenizer, rows))
    ]


def sampled_accuracy(spec: GrpoSpec, chat: Chat) -> dict[str, Any]:
    """Verifier accuracy on held-out prompts of the tasks, sampled as in training: {"sampled": [mean score per prompt]}.

    The mean over `num_generations` answers (avg@k) is what the training raises; a greedy answer is one of many.
    """
    cases: list[Case] = []
    for task in spec.tasks if spec.test_cases else ():
        options = {**task.options, "thinking": float(task.thinking)}
        cases += generate_cases(task.skill, spec.test_cases, SUITE_SEED, "test", **options)
    each = spec.num_generations
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


def reward(
    prompt: Prompt, text: str, completion: Completion, *, format_reward: float
) -> tuple[float | None, dict[str, float | None]]:
    """The verifier's score, plus `format_reward` for thinking as asked; an answer without an end earns nothing."""
    score = prompt.grade(text)
    formed = thinking_format(text, enable_thinking=prompt.thinking).score
    parts = {"verifier": score, "format": formed}
    if score is None:
        return None, parts
    if completion.finish_reason != "stop":
        return 0.0, {**parts, "verifier": 0.0}
    return score + format_reward * (formed or 0.0), parts


def rollout_figures(
    feed: RolloutFeed, every: int, last: int, folder: Path
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


class WithReference:
    """A feed whose batches also carry the reference's log-probabilities (beta > 0)."""

    reads_weights = True

    def __init__(self, feed: RolloutFeed, reference: Decoder, spec: GrpoSpec, device: torch.device) -> None:
        self.feed, self.reference, self.spec, self.device = feed, reference, spec, device

    def micro_batches(self, step: int) -> list[Batch]:
        """The feed's batches, scored by the reference."""
        return [self._scored(batch) for batch in self.feed.micro_batches(step)]

    @torch.no_grad()
    def _scored(self, batch: Batch) -> Batch:
        with autocast(self.device, self.spec.precision):
            scores = token_scores(self.reference, batch.to(self.device), self.spec.temperature)
        column = torch.zeros(batch.input_ids.numel())
        column[scores.places.cpu()] = scores.logprobs.cpu()
        return replace(batch, per_token={**batch.per_token, "reference_logprobs": column.view_as(batch.input_ids)})


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
def assert_ratio_is_one(chat: Chat, feed: RolloutFeed, spec: GrpoSpec, out: Workspace) -> None:
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


def _figures(spec: GrpoSpec, before: dict[str, Any], after: dict[str, Any], last: dict[str, Any]) -> list[Figure]:
    trained = {task.skill for task in spec.tasks}
    headline = [test.name for test in spec.suite.tests if test.skill in trained]
    figures = suite_figures(before, after, headline=(*headline, "skills, mean"))
    old, new = before["sampled"], after["sampled"]
    if new:
        figures.insert(
            0,
            Figure(name="verifier accuracy, sampled", before=sum(old) / len(old), after=sum(new) / len(new), unit="%",
                   stderr_before=standard_error(old), stderr_after=standard_error(new), n=len(new),
                   help=f"held-out prompts of the tasks, mean of {spec.num_generations} answers at temperature "
                   f"{spec.temperature:g}, as in training"),
        )  # fmt: skip
    tokens = [(result["total"] or {}).get("mean_tokens") for result in (before, after)]
    figures.append(
        Figure(
            name="answer length",
            before=tokens[0],
            after=tokens[1],
            unit="tokens",
            higher_is_better=None,
            headline=False,
        )
    )
    return figures
