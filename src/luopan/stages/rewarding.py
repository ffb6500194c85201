"""From what a recipe says of rewards to `rl.rewards.Rewards`, and each part tried once before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from luopan.errors import DataError, FeedUnavailable, LuopanError, RecipeError
from luopan.evals.verifiers import Job, answer_of, problem_with, thinking_format, verify_many
from luopan.recipe.reward_parts import CheckPart, FormatPart, JudgePart, RewardModelPart, RewardPart, VerifierPart
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.rl.judge import TEMPLATE, Judge, bill, scale_of
from luopan.rl.line import Line
from luopan.rl.reward_model import load_reward_model, score
from luopan.rl.rewards import Answer, Part, PartlyGraded, Rewards, asked, each
from luopan.rl.rollouts import Prompt
from luopan.rl.verifying import VERIFIER, ByVerifier
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import Chat

TRIED = 16  # reference answers: enough to see that a verifier does not fit the data
NOTHING = "..."  # a chat template refuses to say nothing
PLAIN = "This is a plain sentence."


def build_rewards(spec: OnPolicySpec, chat: Chat, inputs: Inputs, out: Workspace) -> Rewards:
    """The parts of the recipe, or the verifier of each prompt's task and the form beside it."""
    asked_for: Sequence[RewardPart] = spec.rewards or (
        VerifierPart(kind="verifier"),
        FormatPart(kind="format", weight=spec.format_reward),
    )
    parts = tuple(
        Part(part.name, part.weight, scorer_of(part, chat, inputs, out), required=part.required) for part in asked_for
    )
    overlong = None
    if spec.soft_overlong is not None:
        overlong = (spec.max_completion_length, spec.soft_overlong.cache)
    return Rewards(
        parts,
        spec.truncation,
        spec.truncation_reward,
        spec.missing_eos_penalty,
        overlong,
        spec.soft_overlong.weight if spec.soft_overlong else 1.0,
        say=out.progress.note,
    )


def check_rewards(spec: OnPolicySpec) -> None:
    """LuopanError for a verifier that there is not, or a judge that cannot be asked so."""
    for part in spec.rewards:
        if isinstance(part, CheckPart) and (problem := problem_with(part.verifier, part.args)):
            raise RecipeError(problem, where="rewards")
        if isinstance(part, JudgePart):
            judge_of(part, None)


def scorer_of(
    part: RewardPart, chat: Chat, inputs: Inputs, out: Workspace
) -> Callable[[Sequence[Answer]], Sequence[float | None]]:
    """What grades for a part."""
    if isinstance(part, VerifierPart):
        return ByVerifier(part.seconds)
    if isinstance(part, FormatPart):
        return each(well_formed)
    if isinstance(part, CheckPart):
        return partial(by_check, part)
    if isinstance(part, JudgePart):
        return judge_of(part, out).score
    return reward_model(part, chat, inputs)


def judge_of(part: JudgePart, out: Workspace | None) -> Judge:
    """A judge, whose judgements are kept beside the rollouts."""
    say = None if out is None else out.progress.note
    line = Line(part.base_url, part.api_key_env, part.timeout, part.patience, part.concurrency, say=say)
    return Judge(
        line, part.model, part.name, scale=scale_of(part.scale), max_tokens=part.max_tokens, seed=part.seed,
        folder=None if out is None else out.path / "rollouts", extra=part.extra, template=part.template or TEMPLATE,
    )  # fmt: skip


def by_check(part: CheckPart, answers: Sequence[Answer]) -> list[float | None]:
    """The verdicts of a verifier that knows no prompt."""
    jobs = [Job(part.verifier, answer.text, part.args) for answer in answers]
    verdicts = verify_many(jobs, limit_s=max(1, math.ceil(part.seconds)))
    scores = [verdict.score for verdict in verdicts]
    if reasons := [verdict.reason for verdict in verdicts if verdict.score is None]:
        raise PartlyGraded(scores, reasons[-1])
    return scores


def well_formed(answer: Answer) -> float | None:
    """1 for thinking as it was asked for, 0 for any other."""
    return thinking_format(answer.text, enable_thinking=answer.prompt.thinking).score


def reward_model(
    part: RewardModelPart, chat: Chat, inputs: Inputs
) -> Callable[[Sequence[Answer]], Sequence[float | None]]:
    """What a reward model says of the conversation, the answer without its thinking, as it was trained.

    An answer of nothing, or of nothing but a thought, is read as "..."; one that is too long for the model's context,
    or that it cannot read, is not graded.
    """
    artifact = inputs["reward_model"][0]
    model, tokenizer = load_reward_model(artifact.model_path, device=chat.device)
    model.requires_grad_(False)

    def scores(answers: Sequence[Answer]) -> Sequence[float | None]:
        talks = [conversation(answer) for answer in answers]
        try:
            return score(model, tokenizer, talks, tokens_per_batch=part.tokens_per_batch)
        except DataError as error:
            found = [alone(talk) for talk in talks]
            raise PartlyGraded(found, error.message) from None

    def alone(talk: list[dict[str, Any]]) -> float | None:
        try:
            return score(model, tokenizer, [talk])[0]
        except DataError:
            return None

    return scores


def conversation(answer: Answer) -> list[dict[str, Any]]:
    """The messages of the prompt and the answer as the assistant's turn, without its thinking."""
    said = {"role": "assistant", "content": answer_of(answer.text) or NOTHING}
    return [*(dict(message) for message in answer.prompt.messages), said]


def judge_notes(spec: OnPolicySpec, folder: Path) -> list[str]:
    """What the judges of a run have cost, for the report; `folder` is that of the rollouts."""
    return [bill(folder, part.name) for part in spec.rewards if isinstance(part, JudgePart)]


# ---- before training ----


def try_rewards(rewards: Rewards, prompts: Sequence[Prompt]) -> list[tuple[int, str]]:
    """Each part on a plain sentence, the verifiers on the reference answers of the first prompts.

    Returns (place, reason) of the prompts whose own reference answer is not accepted. RecipeError for a part that
    cannot grade a sentence, and where no reference answer at all is accepted.
    """
    shortest = min(prompts, key=lambda prompt: len(prompt.input_ids))  # a long one may be too much for a reward model
    for part in rewards.parts:
        failures: dict[str, str] = {}
        try:
            asked(part, [Answer(shortest, PLAIN, (0,), "stop")], failures)
        except FeedUnavailable:
            raise  # a judge that is away for now
        except LuopanError as error:
            failures[part.name] = error.message
        if failures:
            raise RecipeError(
                f"the reward {part.name!r} cannot grade an answer: {failures[part.name]}",
                where=f"rewards, tried on {PLAIN!r}",
                hint="Mend it before training: every answer would go ungraded.",
            )
    judge = next((part for part in rewards.parts if part.name == VERIFIER), None)
    known = [place for place, prompt in enumerate(prompts) if prompt.answer][:TRIED]
    if judge is None or not known:
        return []
    answers = [Answer(prompts[place], as_reply(prompts[place]), (0,), "stop") for place in known]
    failures = {}
    scores = asked(judge, answers, failures)
    wrong = [(place, value) for place, value in zip(known, scores) if value is None or value <= 0]
    if len(wrong) == len(known):
        first = prompts[known[0]]
        why = failures.get(VERIFIER, "it is graded as wrong")
        raise RecipeError(
            f"none of {len(known)} reference answers is accepted by its own verifier; the first is {first.answer!r} to "
            f"{first.question!r}: {why}",
            where=f"task {first.name}",
            hint="Look at verifier, args and reference of the task.",
        )
    return [(place, "its own reference answer is not accepted by its verifier") for place, _ in wrong]


def as_reply(prompt: Prompt) -> str:
    """The reference answer as the policy would have said it."""
    return f"<think>\nI know it.\n</think>\n\n{prompt.answer}" if prompt.thinking else prompt.answer
