"""The prompts of tasks: cases of skills, or rows of the user's; those to learn from and those that are held out.

A row that cannot be used (a column is missing, the conversation does not end with the user, the prompt leaves no room
for an answer) is set aside with its place and its fault, and is counted. No question stands on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from luopan.artifacts import stable_hash
from luopan.corpus.skills import Case, generate_cases
from luopan.errors import DataError, RecipeError
from luopan.evals.verifiers import find, problem_with, verify
from luopan.recipe.parts import RowSource
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.recipe.tasks import Task
from luopan.rl.rollouts import Prompt
from luopan.stages.common import Chat
from luopan.stages.handover import sources_fingerprint
from luopan.stages.held_out import held_prompts
from luopan.stages.measure import SUITE_SEED, check_skill
from luopan.stages.rows import read_source
from luopan.tokens.chat import Conversation, encode_prompts

PROMPT = "prompt"  # the column that is asked where the task names none
_COLUMN = re.compile(r"\{([^{}]+)\}")
_MOST = 0.2  # of a task's questions held out where it does not say


@dataclass
class Tasks:
    """`prompts` to draw from, `held` that are never trained on, (where, reason) of what was set aside."""

    prompts: list[Prompt] = field(default_factory=list)
    held: list[Prompt] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def set_aside(self, found: Sequence[tuple[int, str]]) -> None:
        """Take training prompts out, by (place, reason); the others are numbered anew."""
        reasons = dict(found)
        self.aside += [(f"{self.prompts[i].name} #{i}: {self.prompts[i].question!r:.80}", why) for i, why in found]
        kept = [prompt for place, prompt in enumerate(self.prompts) if place not in reasons]
        if not kept:
            raise DataError(f"no prompt is left to learn from; the first was set aside: {found[0][1]}", where="tasks")
        self.prompts = [replace(prompt, key=key) for key, prompt in enumerate(kept)]


@dataclass(frozen=True)
class Question:
    """A row as it is asked and graded."""

    messages: tuple[Mapping[str, Any], ...]
    args: Mapping[str, Any]
    reference: str
    where: str

    @property
    def key(self) -> str:
        return stable_hash([dict(message) for message in self.messages])


def check_tasks(spec: OnPolicySpec) -> None:
    """LuopanError for a skill or a verifier that there is not, before compute."""
    for task in spec.tasks:
        if task.skill is not None:
            check_skill(task.skill, task.options, task.thinking)
        elif task.verifier is not None:
            find(task.verifier)


def tasks_fingerprint(spec: OnPolicySpec) -> str:
    """A hash of the user's files that tasks read."""
    sources = [source for task in spec.tasks if task.skill is None for source in (task.source, task.test_source)]
    return sources_fingerprint([source for source in sources if source is not None])


def open_tasks(spec: OnPolicySpec, chat: Chat, seed: int) -> Tasks:
    """The prompts of every task, as many as its weight says, and `test_cases` held-out ones of each."""
    total = sum(task.weight for task in spec.tasks)
    found = Tasks()
    for number, task in enumerate(spec.tasks):
        count = max(1, round(spec.prompts * task.weight / total))
        if task.skill is not None:
            _from_skill(task, spec, chat, count, seed + number, found)
        else:
            _from_rows(task, spec, chat, count, seed + number, found)
    _check_room(spec, chat, found)
    found.prompts = [replace(prompt, key=key) for key, prompt in enumerate(found.prompts)]
    return found


def training_prompts(spec: OnPolicySpec, chat: Chat, seed: int) -> list[Prompt]:
    """Those to learn from alone."""
    return open_tasks(spec, chat, seed).prompts


# ---- skills ----


def _from_skill(task: Task, spec: OnPolicySpec, chat: Chat, count: int, seed: int, found: Tasks) -> None:
    options = {**task.options, "thinking": float(task.thinking)}
    skill = str(task.skill)
    found.prompts += _of_cases(task, generate_cases(skill, count, seed, "train", **options), chat)
    if spec.test_cases:
        found.held += _of_cases(task, generate_cases(skill, spec.test_cases, SUITE_SEED, "test", **options), chat)


def _of_cases(task: Task, cases: Sequence[Case], chat: Chat) -> list[Prompt]:
    rows = [Conversation(case.messages, case.enable_thinking) for case in cases]
    return [
        Prompt(
            tuple(ids), partial(_score, case.verifier, case.verifier_args), task.label, case.enable_thinking,
            case.question, messages=tuple(case.messages), answer=case.answer, verifier=case.verifier,
            args=case.verifier_args,
        )
        for case, ids in zip(cases, encode_prompts(chat.tokenizer, rows), strict=True)
    ]  # fmt: skip


def _score(verifier: str | None, args: Mapping[str, Any], text: str) -> float | None:
    return None if verifier is None else verify(verifier, text, **args).score


# ---- rows ----


def _from_rows(task: Task, spec: OnPolicySpec, chat: Chat, count: int, seed: int, found: Tasks) -> None:
    """A task's rows, `count` of them drawn by the seed; held out are rows of another place, or some of these."""
    questions = read_questions(task, task.source, found.aside)
    if task.test_source is not None:
        held = read_questions(task, task.test_source, found.aside)
        keys = {question.key for question in held}
    else:
        share = _MOST if task.test_share is None else task.test_share
        most = round(share * len(questions))
        wanted = most if task.test_share is not None else min(spec.test_cases, most)
        keys = held_prompts([question.key for question in questions], wanted) if wanted else set()
        held = [question for question in questions if question.key in keys]
    learned = [question for question in questions if question.key not in keys]
    if task.test_source is not None:
        met = [question for question in questions if question.key in keys]
        found.aside += [(question.where, "the question is held out, too") for question in met]
    if not learned:
        raise DataError("no row is left to learn from", where=task.label, hint="Give more rows, or a test_data.")
    order = np.random.default_rng([seed, 2]).permutation(len(learned))[:count]
    if len(learned) > count:
        found.notes.append(f"{task.label}: {count} of {len(learned)} questions are drawn from; prompts says how many")
    found.prompts += _of_questions(task, [learned[int(place)] for place in order], chat, found)
    found.held += _of_questions(task, _spread(held, spec.test_cases), chat, found)


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """At most `count`, evenly over all."""
    if len(questions) <= count:
        return list(questions)
    return [questions[place * len(questions) // count] for place in range(count)]


def read_questions(task: Task, source: RowSource, aside: list[tuple[str, str]]) -> list[Question]:
    """The rows of a source as questions, each once; what cannot be asked is set aside. DataError where none can."""
    found: list[Question] = []
    seen: dict[str, str] = {}
    first: tuple[str, str] | None = None
    for row in read_source(source):
        fault = row.fault
        if row.values is not None:
            try:
                question = as_question(task, row.values, row.where)
                fault = f"is asked already in {seen[question.key]}" if question.key in seen else ""
            except (ValueError, KeyError, TypeError) as error:
                fault = str(error.args[0]) if error.args else str(error)
        if fault:
            aside.append((row.where, fault))
            first = first or aside[-1]
            continue
        seen[question.key] = row.where
        found.append(question)
    if not found:
        why = f"the first row: {first[1]}" if first else "there is none"
        raise DataError(f"no row can be asked; {why}", where=source.name, hint="Look at prompt and args of the task.")
    return found


def as_question(task: Task, values: Mapping[str, Any], where: str) -> Question:
    """A row as a question. ValueError with what is wrong with it."""
    row = {name: _behind(value, task.after.get(name), name) for name, value in values.items()}
    for name in task.after:
        column(row, name)
    asked = task.prompt or PROMPT
    value = fill(asked, row) if _COLUMN.search(asked) else column(row, asked)
    messages = _messages(value, asked)
    if task.system is not None:
        if messages[0]["role"] == "system":
            raise ValueError("has a system prompt of its own, and the task gives one")
        messages = ({"role": "system", "content": task.system}, *messages)
    args = fill(task.args, row)
    if task.verifier is not None and (problem := problem_with(task.verifier, args)):
        raise ValueError(problem)
    reference = fill(task.reference, row) if task.reference is not None else args.get("answer", "")
    return Question(messages, args, str(reference), where)


def _behind(value: Any, mark: str | None, name: str) -> Any:
    if mark is None:
        return value
    if not isinstance(value, str) or mark not in value:
        raise ValueError(f"column {name!r} has no {mark!r}")
    return value.rpartition(mark)[2].strip()


def _messages(value: Any, name: str) -> tuple[Mapping[str, Any], ...]:
    if isinstance(value, str) and value.strip():
        return ({"role": "user", "content": value},)
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        if value[-1]["role"] != "user":
            raise ValueError(f"{name!r} ends with the {value[-1]['role']}, not with the user")
        return tuple(value)
    raise ValueError(f"{name!r} is neither text nor a list of messages")


def column(row: Mapping[str, Any], name: str) -> Any:
    """A row's value. ValueError where it has none."""
    if row.get(name) is None:
        raise ValueError(f"has no column {name!r}; it has {', '.join(map(repr, row))}")
    return row[name]


def fill(pattern: Any, row: Mapping[str, Any]) -> Any:
    """A pattern with the row's values for its {column}s: all through lists and blocks; a value that stands alone keeps
    its kind."""
    if isinstance(pattern, dict):
        return {key: fill(value, row) for key, value in pattern.items()}
    if isinstance(pattern, list | tuple):
        return [fill(value, row) for value in pattern]
    if not isinstance(pattern, str):
        return pattern
    if alone := _COLUMN.fullmatch(pattern):
        return column(row, alone[1])
    return _COLUMN.sub(lambda match: str(column(row, match[1])), pattern)


def _of_questions(task: Task, questions: Sequence[Question], chat: Chat, found: Tasks) -> list[Prompt]:
    """Prompts of rows; one that the chat template cannot say is set aside."""
    prompts = []
    for question in questions:
        talk = Conversation(question.messages, task.thinking, where=question.where)
        try:
            (ids,) = encode_prompts(chat.tokenizer, [talk])
        except DataError as error:
            found.aside.append((question.where, error.message))
            continue
        prompts.append(
            Prompt(
                tuple(ids), partial(_score, task.verifier, question.args), task.label, task.thinking,
                str(question.messages[-1]["content"]), messages=question.messages, answer=question.reference,
                verifier=task.verifier or "", args=question.args,
            )
        )  # fmt: skip
    return prompts


# ---- room ----


def _check_room(spec: OnPolicySpec, chat: Chat, found: Tasks) -> None:
    """Prompts that leave no room for an answer: an error, or set aside, as the recipe says."""
    context = chat.model.config.max_position_embeddings
    room = min(spec.max_length, context) - spec.max_completion_length
    longest = max(len(prompt.input_ids) for prompt in (*found.prompts, *found.held))
    if longest <= room:
        return
    if spec.too_long == "error":
        where = f"max_length ({spec.max_length})" if spec.max_length <= context else f"the context ({context})"
        needed = longest + spec.max_completion_length
        grows = f"Set max_length to at least {needed}, or" if needed <= context else "Shorten the prompts, or"
        raise RecipeError(
            f"the longest prompt ({longest}) and max_completion_length ({spec.max_completion_length}) do not "
            f"fit {where}",
            hint=f"{grows} too_long to set_aside.",
        )
    for prompts in (found.prompts, found.held):
        long = [prompt for prompt in prompts if len(prompt.input_ids) > room]
        for prompt in long:
            reason = f"the prompt of {len(prompt.input_ids)} tokens leaves no room for an answer"
            found.aside.append((f"{prompt.name}: {prompt.question!r:.80}", reason))
        prompts[:] = [prompt for prompt in prompts if len(prompt.input_ids) <= room]
    if not found.prompts:
        raise DataError(f"no prompt leaves room for an answer of {spec.max_completion_length} tokens", where="tasks")
