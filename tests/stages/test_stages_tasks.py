"""Prompts of the user's rows: what is asked and how it is graded, what is held out, what is set aside and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rl_stage_toys import SUMS, grpo_spec, rows_file, sums

from luopan.errors import DataError, LuopanError, RecipeError
from luopan.recipe.tasks import Task
from luopan.stages.common import Chat
from luopan.stages.tasks import Tasks, as_question, check_tasks, fill, open_tasks, tasks_fingerprint
from luopan.tokens.chat import encode_prompt


def opened(chat: Chat, task: dict[str, Any], **changes: Any) -> Tasks:
    return open_tasks(grpo_spec(**{"tasks": [task], "prompts": 100, **changes}), chat, seed=3)


def test_rows_are_asked_and_graded(chat: Chat, tmp_path: Path) -> None:
    data = rows_file(tmp_path / "sums.jsonl", sums(20))
    found = opened(chat, {"data": data, "system": "Be brief.", **SUMS})
    assert len(found.prompts) == 16 and len(found.held) == 4 and not found.aside
    prompt = next(one for one in found.prompts if one.question == "What is 7 plus 7?")
    assert [dict(m) for m in prompt.messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 7 plus 7?"},
    ]
    assert list(prompt.input_ids) == encode_prompt(chat.tokenizer, list(prompt.messages), enable_thinking=False)
    assert (prompt.grade("It is 14."), prompt.grade("It is 7."), prompt.answer, prompt.name) == (1.0, 0.0, "14", "sums")
    assert [one.key for one in found.prompts] == list(range(16))


def test_no_question_is_on_both_sides(chat: Chat, tmp_path: Path) -> None:
    data = rows_file(tmp_path / "train.jsonl", sums(20))
    shared = opened(chat, {"data": data, "test_share": 0.1, **SUMS}, test_cases=100)
    assert len(shared.held) == 2 and len(opened(chat, {"data": data, **SUMS}, test_cases=100).held) == 4  # a fifth
    own = opened(chat, {"data": data, "test_data": rows_file(tmp_path / "test.jsonl", sums(5)), **SUMS}, test_cases=3)
    for found in (shared, own):
        asked, held = ({one.question for one in side} for side in (found.prompts, found.held))
        assert asked and held and not asked & held
    assert len(own.prompts) == 15 and len(own.held) == 3
    assert [reason for _, reason in own.aside] == ["the question is held out, too"] * 5
    assert opened(chat, {"data": data, **SUMS}, test_cases=0).held == []


def test_rows_that_cannot_be_used_are_set_aside_with_their_place(chat: Chat, tmp_path: Path) -> None:
    faults = [
        "{broken",
        {"question": "What is 1 plus 1?"},
        {"question": "", "answer": "#### 1"},
        {"question": "No mark?", "answer": "2"},
        {"question": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "answer": "#### 3"},
        {"question": 7, "answer": "#### 3"},
        sums(1)[0],
    ]
    data = rows_file(tmp_path / "sums.jsonl", [*sums(10), *faults])
    found = opened(chat, {"data": data, **SUMS})
    assert len(found.prompts) + len(found.held) == 10
    assert [where for where, _ in found.aside] == [f"{data}:{n}" for n in range(11, 18)]
    reasons = [reason for _, reason in found.aside]
    for reason, words in zip(
        reasons,
        ["not JSON", "no column 'answer'", "neither text nor", "has no '####'", "ends with the assistant",
         "neither text nor", f"asked already in {data}:1"],
        strict=True,
    ):  # fmt: skip
        assert words in reason


def test_where_no_row_can_be_asked_the_first_fault_is_told(chat: Chat, tmp_path: Path) -> None:
    data = rows_file(tmp_path / "sums.jsonl", sums(4))
    with pytest.raises(DataError, match="no row can be asked; the first row: has no column 'text'"):
        opened(chat, {"data": data, **SUMS, "prompt": "text"})


def test_prompts_that_leave_no_room_are_an_error_or_set_aside(chat: Chat, tmp_path: Path) -> None:
    long = {"question": "Is it " + "very " * 120 + "long?", "answer": "#### 1"}
    data = rows_file(tmp_path / "sums.jsonl", [*sums(10), long])
    with pytest.raises(RecipeError, match="do not fit the context") as error:
        opened(chat, {"data": data, **SUMS}, max_length=512, test_cases=0)
    assert "too_long to set_aside" in str(error.value)
    found = opened(chat, {"data": data, **SUMS}, max_length=512, test_cases=0, too_long="set_aside")
    assert len(found.prompts) == 10 and "leaves no room" in found.aside[0][1]
    with pytest.raises(DataError, match="no prompt leaves room"):
        opened(chat, {"data": data, **SUMS}, max_completion_length=127, too_long="set_aside", test_cases=0)


def test_weights_and_a_sample_of_many_rows(chat: Chat, tmp_path: Path) -> None:
    data = rows_file(tmp_path / "sums.jsonl", sums(50))
    tasks = [{"data": data, "weight": 3.0, **SUMS}, {"skill": "addition", "name": "skill"}]
    spec = grpo_spec(tasks=tasks, prompts=12)
    found, again, other = (open_tasks(spec, chat, seed) for seed in (3, 3, 4))
    assert [one.name for one in found.prompts] == ["sums"] * 9 + ["skill"] * 3
    assert [one.question for one in found.prompts] == [one.question for one in again.prompts]
    assert [one.question for one in found.prompts] != [one.question for one in other.prompts]
    assert found.notes == ["sums: 9 of 46 questions are drawn from; prompts says how many"]


def test_what_is_set_aside_later_leaves_the_others_numbered(chat: Chat) -> None:
    found = opened(chat, {"skill": "addition"}, prompts=5)
    kept = [found.prompts[place].question for place in (0, 2, 4)]
    found.set_aside([(1, "wrong"), (3, "wrong")])
    assert [(one.key, one.question) for one in found.prompts] == list(enumerate(kept))
    assert len(found.aside) == 2
    with pytest.raises(DataError, match="no prompt is left"):
        found.set_aside([(place, "wrong") for place in range(3)])


def test_columns_are_filled_in_wherever_they_stand() -> None:
    row = {"a": 7, "b": ["x", "y"], "c": "z"}
    pattern = {"answer": "{a}", "any": "{b}", "all": ["{c}", "is {a}"], "n": 3}
    assert fill(pattern, row) == {"answer": 7, "any": ["x", "y"], "all": ["z", "is 7"], "n": 3}
    with pytest.raises(ValueError, match="no column 'd'"):
        fill("{d}", row)
    task = Task(data="x.jsonl", prompt="{c}: {a}?", verifier="number", args={"answer": "{a}"}, reference="It is {a}.")
    question = as_question(task, row, "x:1")
    assert question.messages == ({"role": "user", "content": "z: 7?"},) and question.reference == "It is 7."


def test_a_verifier_or_skill_that_there_is_not_is_refused_before_compute(tmp_path: Path) -> None:
    with pytest.raises(LuopanError, match="no verifier 'nummer'"):
        check_tasks(grpo_spec(tasks=[{"data": "x.jsonl", "verifier": "nummer"}]))
    with pytest.raises(DataError):
        check_tasks(grpo_spec(tasks=[{"skill": "adition"}]))


def test_the_users_file_is_part_of_the_stages_identity(tmp_path: Path) -> None:
    spec = grpo_spec(tasks=[{"data": rows_file(tmp_path / "a.jsonl", sums(3)), **SUMS}])
    before = tasks_fingerprint(spec)
    rows_file(tmp_path / "a.jsonl", sums(4))
    assert before and tasks_fingerprint(spec) != before and tasks_fingerprint(grpo_spec()) == ""


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({}, "exactly one of skill, data and dataset"),
        ({"skill": "addition", "data": "x"}, "exactly one"),
        ({"skill": "addition", "verifier": "number"}, "verifier has no effect on a skill"),
        ({"data": "x", "options": {"digits": 1}}, "options has no effect on rows"),
        ({"data": "x", "split": "train"}, "split has no effect without dataset"),
        ({"data": "x", "args": {"answer": 1}}, "args has no effect without verifier"),
        ({"data": "x", "test_share": 0.1, "test_data": "y"}, "at most one of"),
    ],
)
def test_tasks_that_make_no_sense(task: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Task(**task)
