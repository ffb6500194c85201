"""What an answer earns: parts with weights, put together, and what becomes of answers that do not end.

    rewards = Rewards((Part("verifier", 1.0, each(lambda answer: answer.prompt.grade(answer.text))),))
    verdicts = rewards(answers)          # one reward per answer, and what every part said

A part gets all answers of a call at once, so that a model or an endpoint can grade them together; `each` makes one of a
function that grades a single answer. What could not be graded is None and never 0: a part that raises, runs out of time
or returns no finite number has failed, not the policy. A required part that is None takes the answer out of its group;
an optional one counts as the mean over the prompt's other answers, so that it moves none of them.

Answers that do not end (`truncation`): `mask` takes them out of the group, `penalise` gives them `truncation_reward`
whatever they say, `keep` grades them like others (less `missing_eos_penalty`). `soft_overlong` is added in the end,
to these too: else it would pay to run into the limit.

Limits: a time limit works in the main thread of a process, on code that Python or `re` runs.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

from luopan.errors import LuopanError
from luopan.rl.rollouts import Prompt

Truncation = Literal["mask", "penalise", "keep"]
Score = float | None
SECONDS = 5.0  # for one answer and one verifier: those we have take milliseconds


@dataclass(frozen=True)
class Answer:
    """What is graded. `text` is the reply as `reply_text` gives it: `<think>…</think>` and the answer."""

    prompt: Prompt
    text: str
    tokens: tuple[int, ...]
    finish_reason: str

    @property
    def ended(self) -> bool:
        """Whether the policy said that it is done."""
        return self.finish_reason == "stop"


@dataclass(frozen=True)
class Part:
    """One of several things that are rewarded. `required`: see the module."""

    name: str
    weight: float
    score: Callable[[Sequence[Answer]], Sequence[Score]]
    required: bool = True


@dataclass(frozen=True)
class Verdicts:
    """One of each per answer: the reward (None: not graded, or masked), and what each part said. `failures`: the last
    reason that a part gave for not grading, by its name."""

    rewards: list[Score]
    parts: list[dict[str, Score]]
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewards:
    """See the module. `overlong` is (longest answer, last tokens of it that are dear), None where none are."""

    parts: tuple[Part, ...]
    truncation: Truncation = "penalise"
    truncation_reward: float = 0.0
    missing_eos_penalty: float = 0.0
    overlong: tuple[int, int] | None = None
    overlong_weight: float = 1.0
    say: Callable[[str], None] | None = field(default=None, compare=False)
    """Hears, once for each part, why an answer could not be graded."""
    failed: dict[str, str] = field(default_factory=dict, compare=False)
    """The first reason of each part."""

    def __call__(self, answers: Sequence[Answer]) -> Verdicts:
        """Grade all answers of a call; those to one prompt have the same `Prompt` object."""
        failures: dict[str, str] = {}
        said = {part.name: asked(part, answers, failures) for part in self.parts}
        filled = [said[part.name] if part.required else mended(said[part.name], answers) for part in self.parts]
        rewards: list[Score] = []
        for number, answer in enumerate(answers):
            scores = [column[number] for column in filled]
            total = None
            if not any(score is None for score in scores):
                total = sum(part.weight * (score or 0.0) for part, score in zip(self.parts, scores))
            rewards.append(self._ended(answer, total))
        self._tell(failures)
        parts = [{name: column[number] for name, column in said.items()} for number in range(len(answers))]
        if self.overlong is not None:
            for number, answer in enumerate(answers):
                dear = parts[number]["soft_overlong"] = soft_overlong(len(answer.tokens), *self.overlong)
                known = rewards[number]
                rewards[number] = None if known is None else known + self.overlong_weight * dear
        return Verdicts(rewards, parts, failures)

    def _tell(self, failures: dict[str, str]) -> None:
        for name in failures.keys() - self.failed.keys():
            self.failed[name] = failures[name]
            if self.say is not None:
                self.say(f"WARNING: {name} could not grade an answer: {failures[name]}")

    def _ended(self, answer: Answer, total: Score) -> Score:
        if answer.ended or total is None:
            return total
        if self.truncation == "mask":
            return None
        return self.truncation_reward if self.truncation == "penalise" else total - self.missing_eos_penalty


def soft_overlong(length: int, longest: int, cache: int) -> float:
    """DAPO's penalty for answers close to the limit: 0 up to `longest - cache` tokens, falling to -1 at `longest` and
    beyond (Yu et al. 2025, arXiv:2503.14476, equation 13)."""
    return max(-1.0, min(0.0, (longest - cache - length) / cache))


def each(score: Callable[[Answer], Score], seconds: float = SECONDS) -> Callable[[Sequence[Answer]], list[Score]]:
    """A part's `score` made of one that grades a single answer in at most `seconds`; what it raises costs that answer
    alone. It is for `Rewards` to call, which is told of failures by `PartlyGraded`."""

    def every(answers: Sequence[Answer]) -> list[Score]:
        found: list[Score] = []
        failure = ""
        for answer in answers:
            try:
                with at_most(seconds):
                    found.append(score(answer))
            except LuopanError:
                raise
            except Exception as error:  # a verifier may be anybody's code
                found.append(None)
                failure = reason(error)
        if failure:
            raise PartlyGraded(found, failure)
        return found

    return every


class PartlyGraded(Exception):
    """What a part could say, and why not of all."""

    def __init__(self, scores: list[Score], failure: str) -> None:
        super().__init__(failure)
        self.scores, self.failure = scores, failure


class OutOfTime(Exception):
    """A verifier took longer than it may."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the block after so many seconds; in a thread other than the main one it never does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def asked(part: Part, answers: Sequence[Answer], failures: dict[str, str]) -> list[Score]:
    """What a part says of each answer. Where it fails on all together it is asked about each alone, so that one answer
    that it cannot stand takes no other with it. A LuopanError (an endpoint that is down) ends the run."""
    try:
        return checked(part, part.score(answers), len(answers))
    except LuopanError:
        raise
    except PartlyGraded as some:
        failures[part.name] = some.failure
        return checked(part, some.scores, len(answers))
    except Exception as error:
        failures[part.name] = reason(error)
    if len(answers) == 1:
        return [None]
    return [asked(part, [answer], failures)[0] for answer in answers]


def checked(part: Part, scores: Sequence[Score], count: int) -> list[Score]:
    """Floats, and None for what is no finite number."""
    if len(scores) != count:
        raise ValueError(f"{len(scores)} scores for {count} answers")
    found = [None if score is None else float(score) for score in scores]
    return [score if score is not None and math.isfinite(score) else None for score in found]


def mended(scores: Sequence[Score], answers: Sequence[Answer]) -> list[Score]:
    """Gaps filled with the mean over the prompt's other answers; 0 where none was graded."""
    groups: dict[int, list[float]] = {}
    for score, answer in zip(scores, answers, strict=True):
        known = groups.setdefault(id(answer.prompt), [])
        if score is not None:
            known.append(score)
    means = {prompt: sum(known) / len(known) if known else 0.0 for prompt, known in groups.items()}
    return [means[id(answer.prompt)] if score is None else score for score, answer in zip(scores, answers)]


def reason(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
