"""Measurements: made once, found again only for the same questions, and dialogues put as they are written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact
from luopan.errors import RecipeError
from luopan.generate.config import SamplingParams
from luopan.recipe.parts import ChatSuite, SkillTest
from luopan.recipe.sft_specs import SftSpec
from luopan.stages import measure
from luopan.stages.common import Chat, check_length, with_steps
from luopan.stages.measure import (
    answer_dialogues,
    mean_accuracy,
    run_suite,
    suite_after,
    suite_figures,
    suite_key,
    suite_of,
    test_cases,
)
from luopan.stages.measured import from_artifact, keep, key_of
from luopan.tokens.chat import encode_prompt

test_cases.__test__ = False  # type: ignore[attr-defined]  # a function of the room, no test
SAMPLING = SamplingParams(max_new_tokens=6, temperature=0.0)
SUITE = ChatSuite(tests=(SkillTest(skill="identity", cases=3),), sampling=SAMPLING)


def test_remember_computes_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"answer": 42}

    assert workspace(tmp_path).remember("before", compute) == {"answer": 42}
    assert workspace(tmp_path).remember("before", compute) == {"answer": 42} and len(calls) == 1
    assert workspace(tmp_path).remember("after", compute) == {"answer": 42} and len(calls) == 2


def test_a_measurement_that_failed_is_not_remembered(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        workspace(tmp_path).remember("before", lambda: 1 / 0)
    assert workspace(tmp_path).remember("before", lambda: 7) == 7


def test_kept_measurements_are_found_by_what_was_asked(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path)
    keep(tmp_path, key_of("suite", 1), {"x": 1})
    keep(tmp_path, key_of("bits", 1), {"x": 2})
    assert from_artifact(artifact, key_of("suite", 1), lambda: {"x": 0}) == {"x": 1}
    assert from_artifact(artifact, key_of("bits", 1), lambda: {"x": 0}) == {"x": 2}
    assert from_artifact(artifact, key_of("suite", 2), lambda: {"x": 0}) == {"x": 0}
    assert from_artifact(Artifact(tmp_path / "none"), key_of("suite", 1), lambda: {"x": 0}) == {"x": 0}


def test_other_questions_have_another_key() -> None:
    other = [
        ChatSuite(tests=(SkillTest(skill="identity", cases=4),), sampling=SAMPLING),
        ChatSuite(tests=(SkillTest(skill="talk", cases=3),), sampling=SAMPLING),
        ChatSuite(tests=SUITE.tests, sampling=SAMPLING.model_copy(update={"max_new_tokens": 7})),
    ]
    assert len({suite_key(suite) for suite in (SUITE, *other)}) == 4
    assert suite_key(SUITE.model_copy()) == suite_key(SUITE)


def test_the_next_stage_takes_over_the_measurement(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = suite_after(tmp_path, chat, SUITE)
    assert made["tests"]["identity"]["n"] == 3
    monkeypatch.setattr(measure, "run_suite", lambda chat, suite: "measured again")
    found = suite_of(Artifact(tmp_path), chat, SUITE)
    assert found["tests"] == made["tests"] and found["total"] == made["total"]
    other = SUITE.model_copy(update={"tests": (SkillTest(skill="identity", cases=4),)})
    assert suite_of(Artifact(tmp_path), chat, other) == "measured again"


def test_held_out_cases_are_the_same_every_time_and_never_thinking_unasked() -> None:
    plain = test_cases(SkillTest(skill="addition", cases=6))
    thinking = test_cases(SkillTest(skill="addition", cases=6, thinking=True))
    assert plain == test_cases(SkillTest(skill="addition", cases=6))
    assert not any(case.enable_thinking for case in plain) and all(case.enable_thinking for case in thinking)
    assert {case.skill for case in thinking} == {"addition (thinking)"}


def test_a_suite_without_tests_measures_nothing(chat: Chat) -> None:
    assert run_suite(chat, ChatSuite()) == {"tests": {}, "total": {}, "transcripts": []}
    assert suite_figures(None, run_suite(chat, ChatSuite()), headline=()) == []


def test_suite_figures_by_hand() -> None:
    def result(first: float, second: float | None) -> dict[str, Any]:
        tests = {name: {"accuracy": value, "stderr": 0.1, "scored": 4} for name, value in (("a", first), ("b", second))}
        return {"tests": tests, "total": {"scored": 8, "n": 9, "stop_rate": first, "think_on": None, "think_off": 1.0}}

    figures = {f.name: f for f in suite_figures(result(0.25, 0.5), result(0.5, 1.0), headline=("skills, mean", "a"))}
    assert (figures["skills, mean"].before, figures["skills, mean"].after) == (0.375, 0.75)
    assert figures["a"].headline and not figures["b"].headline and figures["b"].before == 0.5
    assert figures["stop rate"].n == 9 and "thinks when asked" not in figures
    assert mean_accuracy(result(0.4, None)) == 0.4 and mean_accuracy(None) is None


# ---- dialogues ----


class Scripted:
    """Answers with the given texts one after the other and keeps the prompts."""

    def __init__(self, tokenizer: Any, *texts: str) -> None:
        self.texts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self.prompts: list[list[int]] = []

    def generate(self, prompts: list[list[int]], params: Any, *, seed: int) -> list[Any]:
        self.prompts += prompts
        return [SimpleNamespace(tokens=self.texts.pop(0), finish_reason="stop") for _ in prompts]


def test_dialogues_honour_system_and_think(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(chat.tokenizer, "<think>\nTwo.\n</think>\nIt is 2.", "You are welcome.")
    monkeypatch.setattr(measure, "engine_of", lambda chat: engine)
    (answers,) = answer_dialogues(chat, [["/system Be brief.", "/think 1+1?", "Thanks!"]], SAMPLING)
    assert [(a.thinking, a.text) for a in answers] == [("Two.", "It is 2."), (None, "You are welcome.")]
    system, asked = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}
    first = encode_prompt(chat.tokenizer, [system, asked], enable_thinking=True)
    said = {"role": "assistant", "content": "It is 2."}
    thanks = {"role": "user", "content": "Thanks!"}
    second = encode_prompt(chat.tokenizer, [system, asked, said, thanks], enable_thinking=False)
    assert engine.prompts == [first, second]
    assert "Be brief.\n/think" in chat.tokenizer.decode(first) and "/no_think" in chat.tokenizer.decode(second)


def test_dialogues_do_not_know_of_each_other(chat: Chat) -> None:
    both = answer_dialogues(chat, [["Hello!", "Who are you?"], ["Hello!"]], SAMPLING)
    assert [len(answers) for answers in both] == [2, 1]
    assert both[1][0] == both[0][0]


def test_a_dialogue_that_outgrows_the_context_does_not_end_the_evaluation() -> None:
    chat = tiny_chat(context=48)
    turns = ["What is it that you would like to talk about today?"] * 4
    assert len(answer_dialogues(chat, [turns], SAMPLING.model_copy(update={"max_new_tokens": 20}))[0]) == 4


def test_a_model_that_thinks_twice_does_not_end_the_evaluation(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(chat.tokenizer, "<think>\na\n</think>\n<think>\nb", "Fine.")
    monkeypatch.setattr(measure, "engine_of", lambda chat: engine)
    assert len(answer_dialogues(chat, [["Hello!", "How are you?"]], SAMPLING)[0]) == 2


# ---- small sums ----


def test_the_steps_of_some_epochs() -> None:
    def steps(rows: int, epochs: float, **rest: int) -> int:
        spec = SftSpec(kind="sft", model="base", data=[{"skill": "talk", "examples": 1}], max_length=64,
                       learning_rate=1e-3, num_train_epochs=epochs, **rest)  # fmt: skip
        return with_steps(spec, rows).max_steps

    assert [steps(rows, epochs) for rows, epochs in ((100, 1), (100, 2.5), (3, 0.1))] == [6, 16, 1]
    assert steps(100, 1, gradient_accumulation_steps=2) == 3
    assert steps(100, 1, batch_warmup_steps=4, batch_warmup_start=16, gradient_accumulation_steps=2) > 4


def test_a_row_longer_than_the_context_is_refused(chat: Chat) -> None:
    check_length(128, chat)
    with pytest.raises(RecipeError, match="max_length 129 is longer than the context of toy"):
        check_length(129, chat)
