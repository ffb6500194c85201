"""Cloze multiple choice: which of several continuations of a context a model finds most likely.

Two accuracies, as lm-evaluation-harness defines `acc` and `acc_norm`: by the continuation's summed log-probability, and
by that divided by the number of characters of the choice (without the space before it), so that long answers are not at
a disadvantage. A context too long for the model loses its beginning, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError
from luopan.evals.likelihood import likelihoods
from luopan.model.decoder import Decoder


@dataclass(frozen=True)
class Question:
    """`context` is what the model reads, `answer` the number of the right one of `choices`."""

    context: str
    choices: tuple[str, ...]
    answer: int
    id: str = ""

    def __post_init__(self) -> None:
        where = self.id or None
        if len(self.choices) < 2:
            raise DataError(f"a question needs at least two choices, this has {len(self.choices)}", where=where)
        if not 0 <= self.answer < len(self.choices):
            raise DataError(f"answer is {self.answer}, the choices are 0 to {len(self.choices) - 1}", where=where)
        if not all(self.choices):
            raise DataError("a choice is empty", where=where)


@dataclass(frozen=True)
class Answered:
    """The choices that came first by summed and by per-character log-probability; logprobs: [choices] in nats."""

    question: Question
    logprobs: list[float]
    chosen: int
    chosen_normalised: int


@dataclass(frozen=True)
class MultipleChoice:
    """Rates are in 0..1; `chance` is what guessing scores."""

    n: int
    accuracy: float
    accuracy_normalised: float
    stderr: float
    stderr_normalised: float
    chance: float
    truncated: int
    answers: list[Answered] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The figures, without the single answers."""
        return {name: value for name, value in vars(self).items() if name != "answers"}


def multiple_choice(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question], *, delimiter: str = " "
) -> MultipleChoice:
    """Answer `questions`; `delimiter` stands between context and choice. DataError if there are none."""
    if not questions:
        raise DataError("there are no questions to answer")
    pairs = [(question.context, delimiter + choice) for question in questions for choice in question.choices]
    names = [question.id for question in questions for _ in question.choices]
    found = iter(likelihoods(model, tokenizer, pairs, names))
    answers, truncated = [], 0
    for question in questions:
        scored = [next(found) for _ in question.choices]
        answers.append(decide(question, [one.logprob for one in scored]))
        truncated += any(one.cut for one in scored)
    right = [answer.chosen == answer.question.answer for answer in answers]
    right_normalised = [answer.chosen_normalised == answer.question.answer for answer in answers]
    return MultipleChoice(
        n=len(answers),
        accuracy=mean(right),
        accuracy_normalised=mean(right_normalised),
        stderr=stderr(right),
        stderr_normalised=stderr(right_normalised),
        chance=sum(1 / len(question.choices) for question in questions) / len(questions),
        truncated=truncated,
        answers=answers,
    )


def decide(question: Question, logprobs: list[float]) -> Answered:
    """The most likely choice, with and without regard to its length; the first of equals."""
    per_character = [logprob / len(choice) for logprob, choice in zip(logprobs, question.choices)]
    return Answered(question, logprobs, first_highest(logprobs), first_highest(per_character))


def first_highest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda at: (values[at], -at))


def mean(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def stderr(right: Sequence[bool]) -> float:
    """Of the mean; nan for a single one."""
    rate = mean(right)
    return math.sqrt(rate * (1 - rate) / (len(right) - 1)) if len(right) > 1 else math.nan
