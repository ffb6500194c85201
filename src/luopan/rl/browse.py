"""Reading the rollout log: what each generation was like, prompts that match, one prompt with all its answers.

    (log,) = find_logs(Path("runs/mine"))
    [summary(log, step) for step in thinned(log.steps, 30)]
    rows = list(search(log, log.steps, Wanted(grep="forty")))

Files are read one at a time, and only those that are asked for: a log holds every token that was sampled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from luopan.errors import ArtifactError, RecipeError
from luopan.rl.log import logged_steps, read_log

Record = dict[str, Any]
SORTS = ("reward", "length", "advantage")


@dataclass(frozen=True)
class Log:
    """The rollouts of one stage. `steps`: the updates that sampled."""

    stage: str
    folder: Path
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """A generation: over the answers to its own prompts, as the metrics have it. `policy`: updates that the weights had
    seen. `length` in tokens; `parts` without those that graded nothing."""

    step: int
    policy: int
    prompts: int
    answers: int
    reward: float | None
    parts: dict[str, float]
    length: float
    stop_rate: float
    dead_groups: int
    replaced: int
    ungraded: int


@dataclass(frozen=True)
class Row:
    """A prompt of the log. `number`: its place in the step's file, from 1. `record`: the line itself."""

    step: int
    number: int
    record: Record

    @property
    def answers(self) -> list[Record]:
        return list(self.record["answers"])

    @property
    def rewards(self) -> list[float]:
        """Of the answers that were graded."""
        return [answer["reward"] for answer in self.answers if answer["reward"] is not None]

    @property
    def lengths(self) -> list[int]:
        return [len(answer["tokens"]) for answer in self.answers]

    @property
    def ungraded(self) -> int:
        return len(self.answers) - len(self.rewards)

    def key(self, sort: str) -> float:
        """What rows are sorted by: the mean reward, the longest answer, the largest advantage either way."""
        if sort == "reward":
            return fmean(self.rewards) if self.rewards else float("-inf")
        if sort == "length":
            return max(self.lengths, default=0)
        return max((abs(answer["advantage"]) for answer in self.answers), default=0.0)


@dataclass(frozen=True)
class Wanted:
    """Which prompts are asked for: of a task, with an answer that could not be graded, with `grep` (an expression, in
    the question or an answer). `sort`: one of SORTS, largest first; with a minus before it, smallest first."""

    task: str | None = None
    ungraded: bool = False
    grep: str | None = None
    sort: str | None = None

    def __bool__(self) -> bool:
        return self != Wanted()


def find_logs(run: Path, stage: str | None = None) -> list[Log]:
    """The stages of a run that have rollouts, or the one named; `run` may be a stage's folder too. A stage that is
    still being made counts. ArtifactError where there is none."""
    if not run.is_dir():
        raise ArtifactError("no such run", where=run, hint="RUN is a run's folder, such as runs/quickstart.")
    if (run / "rollouts").is_dir():
        found = {run.resolve().name.removesuffix(".partial"): run / "rollouts"}
    else:  # one that is made anew stands behind the finished one of its name, and counts
        found = {folder.parent.name.removesuffix(".partial"): folder for folder in sorted(run.glob("*/rollouts"))}
    logs = [Log(name, folder, tuple(logged_steps(folder))) for name, folder in found.items()]
    logs = [log for log in logs if log.steps]
    names = ", ".join(log.stage for log in logs)
    if not logs:
        raise ArtifactError("this run has no rollouts", where=run, hint="Stages that sample write them: grpo, ppo, …")
    if stage is None:
        return logs
    logs = [log for log in logs if log.stage == stage]
    if not logs:
        raise RecipeError(f"stage {stage!r} has no rollouts", where=run, hint=f"There are those of: {names}")
    return logs


def step_of(log: Log, text: str) -> int:
    """The step that a user means: a number, "first", "last". RecipeError for one that sampled nothing."""
    if text in ("first", "last"):
        return log.steps[0 if text == "first" else -1]
    if not text.isdecimal():
        raise RecipeError(f"{text!r} is no step", hint="A number, first or last.")
    if int(text) not in log.steps:
        near = sorted(sorted(log.steps, key=lambda step: abs(step - int(text)))[:3])
        raise RecipeError(
            f"step {text} of stage {log.stage} sampled nothing",
            hint=f"Near it are {', '.join(map(str, near))}; the log has {log.steps[0]} to {log.steps[-1]}.",
        )
    return int(text)


def summary(log: Log, step: int) -> Summary:
    """What a generation was like. ArtifactError where its file is damaged."""
    rows = list(_rows(log, step))
    own = [row for row in rows if not row.record.get("round")]
    answers = [answer for row in own for answer in row.answers]
    rewards = [reward for row in own for reward in row.rewards]
    parts: dict[str, list[float]] = {}
    for answer in answers:
        for name, value in answer["parts"].items():
            parts.setdefault(name, []).extend([] if value is None else [value])
    return Summary(
        step=step,
        policy=rows[0].record.get("policy", step) if rows else step,
        prompts=len(own),
        answers=len(answers),
        reward=fmean(rewards) if rewards else None,
        parts={name: fmean(values) for name, values in parts.items() if values},
        length=fmean([length for row in own for length in row.lengths]) if answers else 0.0,
        stop_rate=fmean([answer["finish_reason"] == "stop" for answer in answers]) if answers else 0.0,
        dead_groups=sum(len(set(row.rewards)) < 2 for row in own),
        replaced=len(rows) - len(own),
        ungraded=sum(row.ungraded for row in own),
    )


def search(log: Log, steps: Sequence[int], wanted: Wanted) -> Iterator[Row]:
    """The prompts of some steps that match, sorted if that is asked for. RecipeError for a sort or an expression that
    is none, and for a task that no prompt has."""
    sort = (wanted.sort or "").removeprefix("-")
    if sort and sort not in SORTS:
        raise RecipeError(f"cannot sort by {wanted.sort!r}", hint=f"By {', '.join(SORTS)}; -reward: smallest first.")
    try:
        pattern = re.compile(wanted.grep) if wanted.grep is not None else None
    except re.error as error:
        raise RecipeError(f"{wanted.grep!r} is no regular expression: {error}") from None
    rows = _matching(log, steps, wanted, pattern)
    if not sort:
        return rows
    return iter(sorted(rows, key=lambda row: row.key(sort), reverse=not (wanted.sort or "").startswith("-")))


def _matching(log: Log, steps: Sequence[int], wanted: Wanted, pattern: re.Pattern[str] | None) -> Iterator[Row]:
    tasks: set[str] = set()
    for step in steps:
        for row in _rows(log, step):
            tasks.add(row.record["task"])
            if wanted.task is not None and row.record["task"] != wanted.task:
                continue
            if wanted.ungraded and not row.ungraded:
                continue
            texts = [row.record["question"], *(answer["text"] for answer in row.answers)]
            if pattern is None or any(pattern.search(text) for text in texts):
                yield row
    if wanted.task is not None and wanted.task not in tasks:
        raise RecipeError(f"no prompt is of task {wanted.task!r}", hint=f"There are: {', '.join(sorted(tasks))}")


def prompt_of(log: Log, step: int, number: int) -> Row:
    """A prompt by its place in the step's file, from 1. RecipeError for one that there is not."""
    rows = list(_rows(log, step))
    if not 1 <= number <= len(rows):
        raise RecipeError(f"step {step} has no prompt {number}", hint=f"It has 1 to {len(rows)}.")
    return rows[number - 1]


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, the first and the last among them, evenly spread."""
    if len(steps) <= most:
        return list(steps)
    places = {round(place * (len(steps) - 1) / (most - 1)) for place in range(most)}
    return [steps[place] for place in sorted(places)]


def printable(text: str) -> str:
    """The text without what would steer a terminal: a policy may say anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _rows(log: Log, step: int) -> Iterator[Row]:
    for number, record in enumerate(read_log(log.folder, step), 1):
        try:
            yield Row(step, number, checked(record))
        except (KeyError, TypeError, AttributeError):
            where = f"{log.folder / f'step-{step:06d}.jsonl'}:{number}"
            raise ArtifactError("not a record of the rollout log", where=where) from None


def checked(record: Any) -> Record:
    """The record, where everything is in it that is read here."""
    for answer in record["answers"]:
        for name in ("reward", "advantage", "finish_reason"):
            answer[name]
        answer["text"].strip(), len(answer["tokens"]), answer["parts"].items()
    record["question"].strip(), record["task"].strip()
    return dict(record)
