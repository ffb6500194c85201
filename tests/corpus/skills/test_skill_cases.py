"""What every skill family keeps: determinism, disjoint splits, references that pass their own verifier, balance."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from luopan.corpus.skills import Case, generate_cases, skill_names, split_of
from luopan.errors import DataError
from luopan.evals.verifiers import grade

CLOSED = {"counting": {}, "comparison": {"digits": (1,)}, "talk": {}, "identity": {}, "story": {"kinds": ("where",)}}


def asked(case: Case) -> tuple[str, ...]:
    return tuple(message["content"].lower().rstrip("?.!") for message in case.messages)


@pytest.mark.parametrize("skill", skill_names())
def test_the_same_arguments_give_the_same_cases_and_more_of_them_begin_with_fewer(skill: str) -> None:
    few = generate_cases(skill, 50, seed=3)
    assert few == generate_cases(skill, 50, seed=3)
    assert generate_cases(skill, 200, seed=3)[:50] == few
    assert generate_cases(skill, 50, seed=4) != few
    assert len(few) == 50


@pytest.mark.parametrize("skill", skill_names())
def test_train_and_test_questions_never_meet(skill: str) -> None:
    train = {asked(case) for seed in (0, 1) for case in generate_cases(skill, 3000, seed)}
    test = [asked(case) for seed in (0, 5) for case in generate_cases(skill, 200, seed, "test")]
    assert len(test) > 80
    assert not train & set(test)


@pytest.mark.parametrize("skill", skill_names())
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_passes_its_own_verifier(skill: str, split: str) -> None:
    for case in generate_cases(skill, 300, 1, split):
        text = case.answer
        if case.enable_thinking:
            text = f"<think>\n{case.reference['reasoning_content']}\n</think>\n{text}"
        verdict = grade(case, text)
        assert verdict.score == 1.0, (case, verdict)


@pytest.mark.parametrize("skill", skill_names())
def test_the_answer_of_another_case_does_not_pass(skill: str) -> None:
    cases = generate_cases(skill, 400, 2)
    passed = other = 0
    for case, wrong in pairwise(cases):
        if wrong.answer.casefold() != case.answer.casefold() and wrong.variant != case.variant:
            other += 1
            passed += grade(case, wrong.answer).passed
    # "I am Luopan, made by ..." answers what its name is, too; in self_identity nearly every answer gives the name.
    allowed = {"identity": 0.12, "self_identity": 0.6}
    assert other == 0 or passed / other < allowed.get(skill, 0.03)


@pytest.mark.parametrize("skill", skill_names())
def test_a_conversation_ends_with_the_reference_and_thinks_when_it_says_so(skill: str) -> None:
    for case in generate_cases(skill, 200, 6):
        *earlier, question, reference = case.conversation()
        assert (question["role"], reference["role"]) == ("user", "assistant")
        assert bool(reference.get("reasoning_content")) == case.enable_thinking
        assert question["content"] and reference["content"] == case.answer == case.answer.strip()
        assert all(message["role"] in ("system", "user", "assistant") for message in earlier)
        if not case.enable_thinking:
            assert all("reasoning_content" not in message for message in earlier)


@pytest.mark.parametrize("skill", ["addition", "subtraction", "counting", "story", "identity", "talk", "sorting"])
def test_the_share_that_thinks_is_an_option(skill: str) -> None:
    thinks = [case.enable_thinking for case in generate_cases(skill, 1000, 0, thinking=0.3)]
    assert sum(thinks) / 1000 == pytest.approx(0.3, abs=0.05)
    assert all(case.enable_thinking for case in generate_cases(skill, 50, 0, thinking=1))
    assert not any(case.enable_thinking for case in generate_cases(skill, 50, 0, thinking=False))


@pytest.mark.parametrize("skill", sorted(CLOSED))
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_answer_of_a_closed_set_is_the_majority(skill: str, split: str) -> None:
    answers = Counter(case.answer for case in generate_cases(skill, 2000, 0, split, **CLOSED[skill]))
    assert answers.most_common(1)[0][1] / answers.total() <= 0.35


def test_the_asked_position_and_the_larger_number_are_balanced() -> None:
    cases = generate_cases("comparison", 2000, 0)
    first = [re.findall(r"\d+", case.question)[0] == case.answer for case in cases]
    larger = [case.variant == "larger" for case in cases]
    assert 0.45 < sum(larger) / 2000 < 0.55
    assert 0.45 < sum(first) / 2000 < 0.55
    variants = Counter(case.variant for case in generate_cases("last_item", 2000, 0))
    assert 0.45 < variants["last"] / 2000 < 0.55


def test_test_cases_are_distinct_and_fewer_where_the_space_is_small() -> None:
    cases = generate_cases("addition", 500, 0, "test", digits=[1], thinking=0)
    assert len({case.question for case in cases}) == len(cases) < 500


def test_a_tenth_of_the_questions_is_held_out() -> None:
    sides = Counter(split_of(f"question {number}") for number in range(5000))
    assert sides["test"] / 5000 == pytest.approx(0.1, abs=0.015)


def test_a_case_becomes_a_chat_row() -> None:
    row = generate_cases("addition", 1, 0, thinking=1)[0].row()
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["chat_template_kwargs"] == {"enable_thinking": True}
    assert row["verifier"] == "number" and row["skill"] == "addition"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("adition", 3, 0), "did you mean 'addition'"),
        (("zzz", 3, 0), "skills: "),
        (("addition", 3, 0, "dev"), "'train' or 'test'"),
    ],
)
def test_wrong_arguments_are_said_plainly(arguments: tuple, says: str) -> None:
    with pytest.raises(DataError, match=says):
        generate_cases(*arguments)


@pytest.mark.parametrize(
    ("skill", "options", "says"),
    [
        ("addition", {"digit": (1,)}, "no option 'digit'.*\n.*digits"),
        ("addition", {"digits": ()}, "digits is"),
        ("addition", {"thinking": 1.5}, "share between 0 and 1"),
        ("comparison", {"kinds": ["longest"]}, "kinds is"),
        ("sequence", {"max_step": 60}, "max_step is"),
        ("counting", {"max_count": 9}, "max_count is"),
        ("copying", {"thinking": 0.5}, "no thinking form"),
        ("spelling", {"random_letters": 0.5}, "no random letters"),
        ("reversing", {"lengths": (3, 9)}, "lengths is"),
        ("story", {"kinds": ("why",)}, "kinds is"),
        ("recall", {"length": 50}, "length is"),
        ("identity", {"topics": ("shoe size",)}, "topics is"),
        ("identity", {"name": " "}, "name is empty"),
        ("persona", {"negative": 0.9, "named": 0.9}, "more than 1"),
    ],
)
def test_wrong_options_name_the_option(skill: str, options: dict, says: str) -> None:
    with pytest.raises(DataError, match=f"(?s){says}"):
        generate_cases(skill, 3, 0, **options)
