"""What stages measure before and after: held-out skills, held-out text, and the same dialogues with every model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luopan.artifacts import Artifact, plain
from luopan.corpus.skills import Case, generate_cases
from luopan.errors import DataError
from luopan.evals.skills import SkillReport, run_cases
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.generate.replies import ReplyFormat
from luopan.recipe.parts import ChatSuite, SkillTest
from luopan.report.data import Answer, BarChart, Bars, Figure, Message, Sample
from luopan.stages.common import Chat
from luopan.stages.measured import from_artifact, keep, key_of
from luopan.tokens.chat import encode_prompt, split_thinking, stop_ids

SUITE_SEED = 20_000  # of the held-out cases: the same questions whatever the run's seed, so runs can be compared


def engine_of(chat: Chat) -> Engine:
    """The decoder loop for a model, stopping where its chat template says."""
    return Engine(chat.model, eos_ids=stop_ids(chat.tokenizer), pad_id=chat.pad_id)


def test_cases(test: SkillTest) -> list[Case]:
    """Held-out cases under the name of the test, so that one skill can be tested in several forms."""
    options = {**test.options, "thinking": float(test.thinking)}
    cases = generate_cases(test.skill, test.cases, SUITE_SEED, "test", **options)
    return [replace(case, skill=test.name) for case in cases]


def check_skill(skill: str, options: Mapping[str, Any], thinking: bool | float) -> None:
    """DataError for a skill that there is not, or options it does not take: before compute, not after."""
    generate_cases(skill, 1, 0, "train", **{**options, "thinking": float(thinking)})


def check_suite(suite: ChatSuite) -> None:
    """The same for all tests of a suite."""
    for test in suite.tests:
        check_skill(test.skill, test.options, test.thinking)


def run_suite(chat: Chat, suite: ChatSuite) -> dict[str, Any]:
    """Figures of every test: {"tests": {name: {accuracy, stderr, n, …}}, "total": {…}, "transcripts": […]}."""
    cases = [case for test in suite.tests for case in test_cases(test)]
    if not cases:
        return {"tests": {}, "total": {}, "transcripts": []}
    report: SkillReport = run_cases(engine_of(chat), chat.tokenizer, cases, params=suite.sampling, seed=SUITE_SEED)
    plain = report.to_dict()
    return {"tests": plain["skills"], "total": plain["total"], "transcripts": [*plain["good"], *plain["bad"]]}


def suite_key(suite: ChatSuite) -> str:
    """What a suite's result depends on besides the model."""
    return key_of("suite", SUITE_SEED, plain(suite))


def suite_of(artifact: Artifact, chat: Chat, suite: ChatSuite) -> dict[str, Any]:
    """The suite's result on the model of a finished stage, as that stage measured it or measured now."""
    return from_artifact(artifact, suite_key(suite), lambda: run_suite(chat, suite))


def suite_after(folder: Path, chat: Chat, suite: ChatSuite) -> dict[str, Any]:
    """The suite's result on the model that a stage has just made, kept with it."""
    result = run_suite(chat, suite)
    keep(folder, suite_key(suite), result)
    return result


def suite_figures(before: dict[str, Any] | None, after: dict[str, Any], *, headline: Sequence[str]) -> list[Figure]:
    """One figure per test, then the mean over tests, stop rate and format; `headline` names those shown first."""
    figures = []
    for name, score in after["tests"].items():
        old = (before or {"tests": {}})["tests"].get(name, {})
        figures.append(
            Figure(
                name=name,
                before=old.get("accuracy"),
                after=score["accuracy"],
                unit="%",
                stderr_before=old.get("stderr"),
                stderr_after=score["stderr"],
                n=score["scored"],
                headline=name in headline,
            )
        )
    if len(after["tests"]) > 1:
        figures.append(
            Figure(
                name="skills, mean",
                before=mean_accuracy(before),
                after=mean_accuracy(after),
                stderr_before=mean_stderr(before),
                stderr_after=mean_stderr(after),
                unit="%",
                n=after["total"]["scored"],
                headline="skills, mean" in headline,
                help="mean over the tests, each weighted alike",
            )
        )
    for key, name, text in (
        ("stop_rate", "stop rate", "answers that end with the stop token"),
        ("think_on", "thinks when asked", "well-formed <think> block where thinking was asked for"),
        ("think_off", "silent when not", "no <think> where thinking was not asked for"),
    ):
        value = after["total"].get(key)
        if value is not None:
            old_value = (before or {"total": {}})["total"].get(key)
            figures.append(
                Figure(
                    name=name,
                    before=old_value,
                    after=value,
                    unit="%",
                    n=after["total"]["n"] if key == "stop_rate" else None,
                    headline=name in headline,
                    help=text,
                )
            )
    return figures


def mean_accuracy(result: dict[str, Any] | None) -> float | None:
    """Mean accuracy over the tests of a suite's result; None where there is none."""
    values = [s["accuracy"] for s in (result or {"tests": {}})["tests"].values() if s["accuracy"] is not None]
    return sum(values) / len(values) if values else None


def mean_stderr(result: dict[str, Any] | None) -> float | None:
    """Standard error of `mean_accuracy`, the tests being independent of each other."""
    scored = [s for s in (result or {"tests": {}})["tests"].values() if s["accuracy"] is not None]
    if not scored or any(score["stderr"] is None for score in scored):
        return None
    return float(sum(score["stderr"] ** 2 for score in scored) ** 0.5 / len(scored))


def skill_bars(title: str, before: dict[str, Any], after: dict[str, Any], names: tuple[str, str]) -> BarChart:
    """Accuracy per test before and after, with standard errors."""
    tests = list(after["tests"])

    def bars(name: str, result: dict[str, Any]) -> Bars:
        scores = [result["tests"].get(test, {}) for test in tests]
        return Bars(name=name, values=[s.get("accuracy") for s in scores], stderr=[s.get("stderr") for s in scores])

    return BarChart(
        title=title,
        categories=tests,
        bars=[bars(names[0], before), bars(names[1], after)],
        unit="%",
        higher_is_better=True,
        n=[after["tests"][test]["scored"] for test in tests],
    )


def samples_of(result: dict[str, Any], model: str, limit: int = 12) -> list[Sample]:
    """Transcripts of a suite as samples for the report."""
    found = []
    for row in result["transcripts"][:limit]:
        thinking, text = split_thinking(row["answer"])
        answer = Answer(
            text=text,
            thinking=thinking,
            correct=None if row["score"] is None else row["score"] == 1,
            finish_reason=row["finish_reason"],
        )
        found.append(
            Sample(
                messages=[Message(role=m["role"], content=m["content"]) for m in row["messages"]],
                answers={model: answer},
                group=row["skill"],
                thinking=row["enable_thinking"],
                expected=row["expected"],
            )
        )
    return found


def answer_dialogues(chat: Chat, dialogues: Sequence[Sequence[str]], sampling: SamplingParams) -> list[list[Answer]]:
    """Each dialogue's user turns put to a model one after the other; the answers to each turn.

    A turn that begins with "/system " sets the system prompt, "/think " asks for thinking in that turn.
    """
    engine = engine_of(chat)
    done = []
    for dialogue in dialogues:
        messages: list[dict[str, str]] = []
        answers = []
        for turn in dialogue:
            if turn.startswith("/system "):
                messages.append({"role": "system", "content": turn.removeprefix("/system ")})
                continue
            thinks = turn.startswith("/think ")
            messages.append({"role": "user", "content": turn.removeprefix("/think ")})
            try:
                prompt = encode_prompt(chat.tokenizer, messages, enable_thinking=thinks)
                completion = engine.generate([prompt], sampling, seed=SUITE_SEED)[0]
            except DataError:  # the dialogue has outgrown the model's context: there is no room for an answer
                answers.append(Answer(text="", finish_reason="length", tokens=0))
                messages.append({"role": "assistant", "content": "..."})
                continue
            said = ReplyFormat.of(chat.tokenizer).parse(completion.tokens, prompt)
            thinking, text = said.thinking, said.text
            answers.append(
                Answer(
                    text=text,
                    thinking=thinking,
                    finish_reason=completion.finish_reason,
                    tokens=len(completion.tokens),
                )
            )
            # What is left of badly nested tags would be refused as input, though the model said it.
            untagged = re.sub(r"</?think>", "", text).strip()
            messages.append({"role": "assistant", "content": untagged or "..."})
        done.append(answers)
    return done
