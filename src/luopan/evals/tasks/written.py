"""Tasks whose answers a model writes: asked, perhaps with examples, and graded by verifiers.

Who writes is a function, so a model behind an endpoint is asked like one that is here. Thinking is taken off before
anything is graded. A prompt that does not fit the model scores 0 and is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.errors import DataError
from luopan.evals.tasks.config import Check, GenerateTask
from luopan.evals.tasks.figures import Figure, Result, pass_at
from luopan.evals.tasks.rows import Row, read_rows, text_of, value_of
from luopan.evals.verifiers import Job, Verdict, find, verify_many
from luopan.generate.config import SamplingParams

Request = str | list[dict[str, str]]


@dataclass(frozen=True)
class Written:
    """An answer without its thinking. finish_reason: "stop", "length", or "too_long" where the prompt did not fit."""

    text: str
    finish_reason: str
    tokens: int = 0
    thinking: str = ""


Write = Callable[[Sequence[Request], SamplingParams, bool], Sequence[Written]]


def writer(generator: Any) -> Write:
    """Of a `luopan.generate.text.TextGenerator`."""

    def write(requests: Sequence[Request], params: SamplingParams, thinking: bool) -> list[Written]:
        window = generator.model.config.max_position_embeddings
        found = [Written("", "too_long")] * len(requests)
        fits = [
            at
            for at, one in enumerate(requests)
            if len(generator.encode(one, thinking and not isinstance(one, str))) < window
        ]
        replies = generator.batch([requests[at] for at in fits], params, enable_thinking=thinking) if fits else []
        for at, reply in zip(fits, replies):
            found[at] = Written(reply.text, reply.finish_reason, len(reply.tokens), reply.thinking or "")
        return found

    return write


def run_written(
    task: GenerateTask, rows: Sequence[Row], write: Write, folder: Path | None = None, seed: int = 0
) -> Result:
    """Every row `samples` times. Scores of a row are means over its answers that could be graded."""
    for check in task.checks.values():
        find(check.verifier)
    before = _examples(task, folder)
    requests = [request(task, row, f"{task.name}, row {at}", before) for at, row in enumerate(rows, 1)]
    params = SamplingParams(max_new_tokens=task.max_new_tokens, temperature=task.temperature, stop=task.stop, seed=seed)
    said = write([one for one in requests for _ in range(task.samples)], params, task.thinking)
    figures: dict[str, Figure] = {}
    verdicts: dict[str, list[Verdict]] = {}
    for name, check in task.checks.items():
        verdicts[name] = _graded(check, task, rows, said)
        figures |= _figures(name, check, task, verdicts[name])
    shown = [
        {"row": at // task.samples, "prompt": requests[at // task.samples], "text": one.text, "thinking": one.thinking,
         "finish_reason": one.finish_reason, "scores": {name: found[at].score for name, found in verdicts.items()},
         "reasons": {name: found[at].reason for name, found in verdicts.items() if found[at].reason}}
        for at, one in enumerate(said)
    ]  # fmt: skip
    main = task.main or next(iter(figures))
    if main not in figures:
        raise DataError(f"main is {main!r}, the figures are {', '.join(figures)}", where=task.name)
    return Result(task.name, main, figures, shown, _notes(said, verdicts))


def request(task: GenerateTask, row: Row, where: str, before: Sequence[tuple[str, str]] = ()) -> Request:
    """What the model is given for a row, after examples of (question, answer)."""
    prompt = text_of(task.prompt, row, where)
    if not task.chat:
        separator = task.examples.separator if task.examples else ""
        return "".join(f"{asked} {told}{separator}" for asked, told in before) + prompt
    turns = [{"role": "system", "content": task.system}] if task.system else []
    for asked, told in before:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
    return [*turns, {"role": "user", "content": prompt}]


def _examples(task: GenerateTask, folder: Path | None) -> list[tuple[str, str]]:
    if task.examples is None:
        return []
    rows = read_rows(task.examples.data, folder, task.examples.shots)
    named = [(row, f"{task.name}, example {at}") for at, row in enumerate(rows, 1)]
    return [(text_of(task.prompt, row, where), text_of(task.target, row, where)) for row, where in named]


def _graded(check: Check, task: GenerateTask, rows: Sequence[Row], said: Sequence[Written]) -> list[Verdict]:
    """A verdict per answer."""
    jobs, places = [], []
    verdicts = [Verdict(0.0, "the prompt does not fit the model")] * len(said)
    for at, row in enumerate(rows):
        args = value_of(check.args, row, f"{task.name}, row {at + 1}")
        for place in range(at * task.samples, (at + 1) * task.samples):
            if said[place].finish_reason == "too_long":
                continue
            text = extracted(check, said[place].text)
            if text is None:
                verdicts[place] = Verdict(0.0, "nothing there to extract")
                continue
            places.append(place)
            jobs.append(Job(check.verifier, text, args))
    for place, verdict in zip(places, verify_many(jobs)):
        verdicts[place] = verdict
    return verdicts


def extracted(check: Check, text: str) -> str | None:
    """What the verifier sees of an answer; None where `extract` finds nothing."""
    if check.extract is None:
        return text
    found = list(re.finditer(check.extract, text))
    if not found:
        return None
    match = found[0 if check.take == "first" else -1]
    return next((group for group in match.groups() if group), match.group())


def _figures(name: str, check: Check, task: GenerateTask, verdicts: Sequence[Verdict]) -> dict[str, Figure]:
    """The mean of a check, and pass@k of it."""
    groups = [verdicts[at : at + task.samples] for at in range(0, len(verdicts), task.samples)]
    if check.pooled:
        parts = [[list(one.parts.values()) for one in group if one.score is not None] for group in groups]
        sums = tuple(sum(map(sum, some)) if some else None for some in parts)
        return {name: Figure(sums, tuple(float(sum(map(len, some))) for some in parts), task.chance)}
    known = [[one.score for one in group if one.score is not None] for group in groups]
    means = tuple(sum(scores) / len(scores) if scores else None for scores in known)
    figures = {name: Figure(means, chance=task.chance)}
    for k in task.pass_at:
        passed = tuple(
            pass_at(k, len(scores), sum(score >= 1 for score in scores)) if len(scores) >= k else None
            for scores in known
        )
        figures[f"{name}/pass@{k}"] = Figure(passed, chance=task.chance)
    return figures


def _notes(said: Sequence[Written], verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, float]:
    reasons = Counter(one.finish_reason for one in said)
    asked = len(said) - reasons["too_long"]
    notes: dict[str, float] = {}
    if asked:
        notes["ends by itself"] = reasons["stop"] / asked
        notes["tokens"] = sum(one.tokens for one in said) / asked
    if reasons["too_long"]:
        notes["prompts too long"] = reasons["too_long"]
    for name, found in verdicts.items():
        if missing := sum(one.score is None for one in found):
            notes[f"{name} not graded"] = missing
    return notes
