"""Asks a finished model held-out questions of some skills and grades the answers: what `luopan eval` does.

The questions are those that the stages ask (same seed, split "test"), so the figures can be compared with a run's
report.
Limits: procedural skills only; the spread given is over the questions, not over training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luopan.corpus.skills import Case, generate_cases, skill_names
from luopan.errors import RecipeError
from luopan.evals.skills import SkillReport, run_cases
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.recipe.introspect import suggestion
from luopan.tokens.chat import stop_ids

QUESTION_SEED = 20_000


def evaluate_skills(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    cases: int = 50,
    thinking: bool | None = None,
    params: SamplingParams | None = None,
    seed: int = QUESTION_SEED,
) -> SkillReport:
    """Accuracy, stop rate and format of `model` on `cases` held-out questions of each task.

    `thinking` None asks as the skill does by default, True or False asks all questions so. Raises RecipeError for an
    unknown task.
    """
    known = skill_names()
    for task in tasks:
        if task not in known:
            raise RecipeError(f'unknown task "{task}"{suggestion(task, known, list_up_to=40)}')
    asked = [case for task in tasks for case in _cases(task, cases, thinking, seed)]
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise RecipeError("this tokenizer has neither a padding nor an end token")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    engine = Engine(model, eos_ids=stop_ids(tokenizer), pad_id=pad)
    return run_cases(
        engine, tokenizer, asked, params=params or SamplingParams(max_new_tokens=96, temperature=0.0), seed=seed
    )


def _cases(task: str, count: int, thinking: bool | None, seed: int) -> list[Case]:
    options = {} if thinking is None else {"thinking": float(thinking)}
    cases = generate_cases(task, count, seed, "test", **options)
    return [replace(case, skill=task) for case in cases]
