"""Skills as plain text, and long documents that need their beginning."""

from __future__ import annotations

import re

import pytest

from luopan.corpus.skills import documents, generate_cases, long_documents, skill_names
from luopan.errors import DataError


@pytest.mark.parametrize("skill", skill_names())
def test_documents_keep_their_length_and_are_deterministic(skill: str) -> None:
    pages = documents(skill, 20, 0, length=500)
    assert pages == documents(skill, 20, 0, length=500) and len(pages) == 20
    assert pages != documents(skill, 20, 1, length=500)
    assert all(page.endswith("\n") and page.strip() for page in pages)
    if skill != "recall":
        assert 200 < sum(map(len, pages)) / 20 <= 501


def test_a_document_says_question_working_and_answer() -> None:
    (page,) = documents("addition", 1, 0, form="questions", thinking=1, length=200)
    for block in page.strip().split("Question: ")[1:]:
        question, working, answer = block.strip().split("\n")
        assert working.startswith("Working: ") and answer.startswith("Answer: ")
        assert sum(map(int, re.findall(r"\d+", question))) == int(answer.removeprefix("Answer: "))
    (plain,) = documents("addition", 1, 0, form="bare", thinking=0)
    assert ":" not in plain
    (talk,) = documents("persona", 1, 0, form="dialogue", negative=0, named=0)
    assert talk.startswith("System: ")


def test_documents_come_from_the_training_side() -> None:
    held_out = {case.question for case in generate_cases("subtraction", 2000, 0, "test")}
    pages = "\n".join(documents("subtraction", 300, 0, form="bare"))
    assert not held_out & set(pages.split("\n"))
    asked = documents("subtraction", 20, 0, split="test", form="bare", thinking=0)
    assert set("".join(asked).split("\n")) & held_out


def test_many_documents_do_not_repeat_one_batch() -> None:
    pages = documents("addition", 50, 0, length=4000, digits=(3,))
    lines = [line for page in pages for line in page.split("\n") if "+" in line and "=" not in line]
    assert len(set(lines)) / len(lines) > 0.95


@pytest.mark.parametrize("kind", ["note", "story", "mixed"])
@pytest.mark.parametrize("length", [600, 3000])
def test_long_documents_have_the_length_asked_for(kind: str, length: int) -> None:
    pages = long_documents(30, 0, length=length, kind=kind)
    assert pages == long_documents(30, 0, length=length, kind=kind)
    assert all(0.7 * length - 250 < len(page) <= length + 1 for page in pages), [len(page) for page in pages]


def test_the_answers_of_a_long_note_stand_at_its_beginning() -> None:
    distances = []
    for page in long_documents(20, 0, length=3000, kind="note"):
        facts = dict(re.findall(r"he code of the (\w+ \w+) is (\d \d \d)\.", page))
        asked = [
            (found.start(), *found.groups())
            for found in re.finditer(r"(?:of|has) the (\w+ \w+)[?.] (\d \d \d)\.", page)
        ]
        assert len(asked) >= 4
        for start, thing, code in asked:
            assert facts[thing] == code
            distances.append(start - page.index(f"{thing} is"))
    assert max(distances) > 1500


def test_later_scenes_of_a_long_story_follow_its_opening() -> None:
    for page in long_documents(20, 0, length=2500, kind="story"):
        opening = re.findall(r"(\w+) lives in (\w+) and has a (\w+) (\w+)\.", page)
        homes = {name: city for name, city, _, _ in opening}
        things = {name: f"{color} {thing}" for name, _, color, thing in opening}
        for _, city, name in re.findall(r"(\w+) went to (\w+) to see (\w+)\.", page):
            assert homes[name] == city
        shown = re.findall(r"(\w+) showed \w+ the (\w+ \w+)\.", page)
        for name, thing in shown:
            assert things[name] == thing


@pytest.mark.parametrize("length", [300, 1200])
def test_recall_asks_at_the_end_for_what_stood_at_the_beginning(length: int) -> None:
    for case in generate_cases("recall", 100, 0, length=length, facts=3):
        facts = dict(re.findall(r"he code of the (\w+ \w+) is (\d \d \d)\.", case.question))
        assert len(facts) == 3 and case.answer in facts.values()
        thing = next(thing for thing in facts if re.search(rf"{thing}[.?]$", case.question))
        assert facts[thing] == case.answer
        assert length - 80 <= len(case.question) <= length


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: documents("addition", 3, 0, form="poem"), "no form 'poem'"),
        (lambda: documents("addition", 3, 0, length=0), "must be positive"),
        (lambda: long_documents(3, 0, kind="saga"), "no kind 'saga'"),
        (lambda: long_documents(3, 0, length=100), "at least 600"),
    ],
)
def test_mistakes_are_said_plainly(call, says: str) -> None:
    with pytest.raises(DataError, match=says):
        call()
