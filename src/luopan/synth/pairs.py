"""Preference pairs: a strong model's answer against a weak one's, or the best against the worst of one model's own.

With a weak model the chosen answer comes from the teacher and the rejected one from it; without, both come from the
teacher, which then is the policy that is to learn from them. Grades, of a verifier or a judge, choose the best of the
one and the worst of the other and drop pairs that are too near, or whose better answer is not good enough; ungraded,
the strong model's answer is taken to be better. Answers that did not end by themselves are neither: cut text would be
learnt from on one side and length on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luopan.evals.verifiers import Job, verify_many
from luopan.rl.judge import Judge
from luopan.rl.rewards import Answer, PartlyGraded
from luopan.rl.rollouts import Prompt
from luopan.synth.config import PairsConfig, Sampling
from luopan.synth.harvest import Check, Harvest
from luopan.synth.journal import Asker, Heard, seed_of
from luopan.synth.speaker import Ask, Message, Reply

VERSION = 1


@dataclass(frozen=True)
class Question:
    """A prompt, and what its answers are graded by. `thinking` None: the models are not told."""

    messages: tuple[Message, ...]
    task: str = ""
    verifier: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""
    thinking: bool | None = None

    @property
    def text(self) -> str:
        """All that is said."""
        return "\n".join(str(message.get("content") or "") for message in self.messages)


Grader = Callable[[Sequence[tuple[Question, Reply]]], list[float | None]]


@dataclass(frozen=True)
class Graded:
    """An answer and what it is worth; None: ungraded."""

    heard: Heard
    grade: float | None


def pairs(
    config: PairsConfig,
    questions: Sequence[Question],
    sampling: Sampling,
    teacher: Asker,
    weak: Asker | None,
    grader: Grader | None,
    harvest: Harvest,
) -> None:
    """Fill the harvest with at most a pair for each question."""
    asked = [one for one in questions if harvest.passes({"prompt": _plain(one.messages)}, _askable(one, harvest))]
    strong = _answers(asked, config.drawn, sampling, teacher, harvest)
    other = strong if weak is None else _answers(asked, config.drawn, sampling, weak, harvest)
    grades: dict[tuple[int, str], float | None] = {}
    if grader is not None:
        whole = {
            (place, one.key): (asked[place], one.reply)
            for said in (strong, other)
            for place, answers in enumerate(said)
            for one in answers
        }
        grades = dict(zip(whole, grader(list(whole.values())), strict=True))
    for place, question in enumerate(asked):
        better, worse = ([Graded(one, grades.get((place, one.key))) for one in said[place]] for said in (strong, other))
        _pair(question, better, worse, config, harvest)


def _askable(question: Question, harvest: Harvest) -> Iterable[Check]:
    yield from harvest.clean(question.text)
    yield from harvest.fresh(question.text)


def _answers(
    questions: Sequence[Question], count: int, sampling: Sampling, asker: Asker, harvest: Harvest
) -> list[list[Heard]]:
    """The whole answers to each question."""
    asks = [
        Ask(
            question.messages,
            seed_of(harvest.origin.seed, "answer", question.text, number),
            sampling,
            "answers",
            question.thinking,
        )
        for question in questions
        for number in range(count)
    ]
    said = asker.ask(asks)
    own = [said[place * count : (place + 1) * count] for place in range(len(questions))]
    return [[one for one in answers if one.reply.ended and one.text] for answers in own]


def _pair(
    question: Question, better: Sequence[Graded], worse: Sequence[Graded], config: PairsConfig, harvest: Harvest
) -> None:
    """Choose, check and keep a pair."""
    row: dict[str, Any] = {"prompt": _plain(question.messages)}
    graded = config.grade is not None
    if graded:
        better, worse = ([one for one in some if one.grade is not None] for some in (better, worse))
    best = max(better, key=lambda one: one.grade or 0.0, default=None)
    worst = min(worse, key=lambda one: one.grade or 0.0, default=None)
    heard = [one.heard for one in (best, worst) if one is not None]

    def checks() -> Iterable[Check]:
        yield Check("whole answers", best is not None and worst is not None, "too few whole or graded answers")
        assert best is not None and worst is not None
        row["chosen"], row["rejected"] = [_said(best, question)], [_said(worst, question)]
        if graded:
            high, low = best.grade or 0.0, worst.grade or 0.0
            row["grades"] = {"chosen": high, "rejected": low}
            yield Check("good enough", high >= config.min_chosen, f"the best answer has {high:g}")
            yield Check("margin", high > low and high - low >= config.min_margin, f"{high:g} against {low:g}")
        yield Check("different", best.heard.text != worst.heard.text, "both answers are the same words")
        yield from harvest.clean("\n".join([question.text, best.heard.text, worst.heard.text]))

    if harvest.passes(row, checks(), heard):
        if question.thinking is not None:
            row["chat_template_kwargs"] = {"enable_thinking": question.thinking}
        harvest.keep({**row, "task": question.task}, heard)


def _said(one: Graded, question: Question) -> dict[str, Any]:
    thought = one.heard.reply.thinking if question.thinking else None
    return {"role": "assistant", "content": one.heard.text, **({"reasoning_content": thought} if thought else {})}


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [dict(message) for message in messages]


# ---- graders ----


def raw(reply: Reply) -> str:
    """A reply as verifiers read it, its thinking in front."""
    return reply.text if reply.thinking is None else f"<think>\n{reply.thinking}\n</think>\n\n{reply.text}"


def by_verifier(answers: Sequence[tuple[Question, Reply]]) -> list[float | None]:
    """What each question's own verifier says."""
    jobs = [Job(str(question.verifier), raw(reply), question.args) for question, reply in answers]
    return [verdict.score for verdict in verify_many(jobs)]


def by_judge(judge: Judge) -> Grader:
    """What a judge says; it keeps its judgements itself."""

    def grade(answers: Sequence[tuple[Question, Reply]]) -> list[float | None]:
        asked = [
            Answer(
                Prompt(
                    (), lambda text: None, question.task, messages=question.messages, answer=question.reference,
                    question=str(question.messages[-1]["content"]),
                ),
                raw(reply),
                (),
                "stop",
            )
            for question, reply in answers
        ]  # fmt: skip
        if not asked:
            return []
        try:
            return judge.score(asked)
        except PartlyGraded as error:
            return list(error.scores)

    return grade
