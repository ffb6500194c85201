"""What the pipelines of synthetic data begin with: the user's rows, and cases of skills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luopan.corpus.skills import generate_cases
from luopan.errors import DataError, RecipeError
from luopan.evals.ifeval import given, row_problem
from luopan.evals.verifiers import find, problem_with
from luopan.recipe.parts import RowSource
from luopan.recipe.synth_specs import IfThinkSpec, PairsSpec
from luopan.recipe.tasks import Task
from luopan.stages.measure import check_skill
from luopan.stages.rows import Row, read_source
from luopan.stages.tasks import read_questions
from luopan.synth.ifthink import First
from luopan.synth.pairs import Question

ASKED = ("instruction", "prompt", "question", "query", "input", "text")
TALKS = ("messages", "conversations")


def asked_in(values: Mapping[str, Any]) -> str | None:
    """The first thing that a user says in a row, in any of the usual columns."""
    for name in TALKS + ASKED[1:2]:
        talk = values.get(name)
        if isinstance(talk, list):
            for turn in talk:
                said = isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in ("user", "human")
                text = turn.get("content", turn.get("value")) if said else None
                if isinstance(text, str) and text.strip():
                    return text.strip()
    for name in ASKED:
        if isinstance(text := values.get(name), str) and text.strip():
            more = values.get("input") if name == "instruction" else None
            return f"{text.strip()}\n\n{more.strip()}" if isinstance(more, str) and more.strip() else text.strip()
    return None


def asked_rows(sources: Sequence[RowSource], notes: list[str]) -> list[tuple[str, Row]]:
    """What each row of the sources asks, each once. Rows without a question are counted. DataError where none has."""
    found: dict[str, Row] = {}
    without: list[str] = []
    for source in sources:
        for row in read_source(source):
            text = asked_in(row.values) if row.values is not None else None
            if text is None:
                without.append(f"{row.where}: {row.fault or 'no question in any of the usual columns'}")
            else:
                found.setdefault(text, row)
    if not found:
        raise DataError(
            f"no row holds a question; {without[0] if without else 'there is none'}",
            where=", ".join(source.name for source in sources),
            hint=f"Known columns are {', '.join((*ASKED, *TALKS))}; others are renamed by columns.",
        )
    if without:
        notes.append(f"{len(without):,} rows hold no question and are left out, such as {without[0]}")
    return list(found.items())


def seed_instructions(sources: Sequence[RowSource], notes: list[str]) -> list[str]:
    """The given instructions, in order."""
    return [text for text, _ in asked_rows(sources, notes)]


def check_ifeval() -> None:
    """RecipeError where what checks the instructions is not installed."""
    if problem := problem_with("ifeval", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}):
        raise RecipeError(problem, where="pipeline")


def first_questions(spec: IfThinkSpec, seed: int, notes: list[str]) -> list[First]:
    """The first questions in an order drawn by the seed, with the instructions that they say themselves."""
    rows = asked_rows(spec.data, notes)
    found, odd = [], []
    for place in np.random.default_rng([seed, 3]).permutation(len(rows)):
        text, row = rows[int(place)]
        values = row.values or {}
        ids, kwargs = values.get("instruction_id_list") or [], values.get("kwargs") or []
        if ids and (problem := row_problem(ids, kwargs)):
            odd.append(f"{row.where}: {problem}")
            continue
        found.append(First(text, tuple(ids), tuple(given(args) for args in kwargs) if ids else ()))
    if odd:
        notes.append(f"{len(odd):,} rows have instructions that cannot be checked, such as {odd[0]}")
    return found


def check_questions(spec: PairsSpec) -> None:
    """LuopanError for a skill or a verifier that there is not."""
    for task in spec.tasks:
        if task.skill is not None:
            check_skill(task.skill, task.options, task.thinking)
        elif task.verifier is not None:
            find(task.verifier)


def pair_questions(spec: PairsSpec, seed: int, notes: list[str]) -> list[Question]:
    """The prompts of every task, as many as its weight says, drawn by the seed."""
    total = sum(task.weight for task in spec.tasks)
    found: list[Question] = []
    for number, task in enumerate(spec.tasks):
        count = max(1, round(spec.prompts * task.weight / total))
        # The default of `thinking` is made for training; here it is only said where the recipe says it.
        thinking = task.thinking if "thinking" in task.model_fields_set else None
        if task.skill is not None:
            options = {**task.options, "thinking": float(bool(thinking))}
            found += [
                Question(case.messages, task.label, case.verifier, case.verifier_args, case.answer, thinking)
                for case in generate_cases(task.skill, count, seed + number, "train", **options)
            ]
            continue
        found += _of_rows(task, count, seed + number, thinking, notes)
    return found


def _of_rows(task: Task, count: int, seed: int, thinking: bool | None, notes: list[str]) -> list[Question]:
    aside: list[tuple[str, str]] = []
    rows = read_questions(task, task.source, aside)
    if aside:
        notes.append(f"{task.label}: {len(aside):,} rows are set aside, such as {aside[0][0]}: {aside[0][1]}")
    order = np.random.default_rng([seed, 2]).permutation(len(rows))[:count]
    return [
        Question(rows[at].messages, task.label, task.verifier, rows[at].args, rows[at].reference, thinking)
        for at in sorted(int(place) for place in order)
    ]
