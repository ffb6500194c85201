"""General prompts: distinct, on both sides, spread over their groups, the same every time."""

from __future__ import annotations

from collections import Counter

import pytest

from luopan.corpus.skills.general import SYSTEM_SHARE, SYSTEMS, general_prompts, prompt_groups
from luopan.corpus.skills.self_identity import SelfOptions, self_rows
from luopan.errors import DataError


def test_the_numbers_that_the_documentation_names() -> None:
    every = [text for group in prompt_groups().values() for text in group]
    assert len(every) == len(set(every)) == 305
    train, test = general_prompts(999, 0, "train"), general_prompts(999, 0, "test")
    assert (len(train), len(test)) == (245, 60)
    assert not {prompt.question for prompt in train} & {prompt.question for prompt in test}


def test_few_prompts_come_from_all_groups() -> None:
    groups = Counter(prompt.group for prompt in general_prompts(60, 0, "train"))
    assert set(groups) == set(prompt_groups()) and max(groups.values()) - min(groups.values()) <= 1
    assert general_prompts(200, 0, "train")[:60] == general_prompts(60, 0, "train") != general_prompts(60, 1, "train")


def test_a_system_prompt_belongs_to_its_wording() -> None:
    first = {prompt.question: prompt.messages for prompt in general_prompts(999, 0, "train")}
    again = {prompt.question: prompt.messages for prompt in general_prompts(999, 5, "train")}
    assert first == again
    systems = [messages[0]["content"] for messages in first.values() if messages[0]["role"] == "system"]
    assert len(systems) / len(first) == pytest.approx(SYSTEM_SHARE, abs=0.08) and set(systems) == set(SYSTEMS)


def test_none_is_a_question_of_who_the_model_is() -> None:
    asked = {text.lower().rstrip("?.!") for row in self_rows(SelfOptions(base="x")) for text in row["questions"]}
    assert not asked & {text.lower().rstrip("?.!") for group in prompt_groups().values() for text in group}


def test_an_unknown_side_is_said_plainly() -> None:
    with pytest.raises(DataError, match="'train' or 'test'"):
        general_prompts(3, 0, "dev")  # type: ignore[arg-type]
