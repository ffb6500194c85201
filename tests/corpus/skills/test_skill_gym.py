"""The adapter to reasoning_gym: its questions, its scorer, our workings."""

from __future__ import annotations

import json
import re

import pytest

from luopan.corpus.skills import generate_cases
from luopan.corpus.skills.gym import chain_working, gcd_working, letter_working
from luopan.errors import DataError
from luopan.evals.verifiers import grade

pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize("task", ["chain_sum", "gcd", "letter_counting", "products", "leg_counting"])
def test_references_pass_the_packages_scorer_and_other_answers_do_not(task: str) -> None:
    cases = generate_cases(f"rg:{task}", 60, 0)
    assert len(cases) == 60 and cases == generate_cases(f"rg:{task}", 60, 0)
    for case in cases:
        assert grade(case, case.answer).score == 1.0
        assert grade(case, f"{case.answer} or 123456").score == 0.0
        json.dumps(case.row())


def test_splits_are_disjoint_whatever_the_seed() -> None:
    train = {case.question for seed in (0, 1) for case in generate_cases("rg:chain_sum", 2000, seed)}
    test = {case.question for seed in (0, 3) for case in generate_cases("rg:chain_sum", 100, seed, "test")}
    assert len(test) >= 100 and not train & test


def test_workings_by_hand() -> None:
    assert chain_working({"metadata": {"expression": "4 - 1 + 17"}}) == "4-1=3 3+17=20"
    assert gcd_working({"metadata": {"numbers": [78, 46]}}) == "78 46 32 14 4 2 0"
    assert gcd_working({"metadata": {"numbers": [12, 18, 8]}}) == "12 18 12 6 0 8 6 2 0"
    assert letter_working({"metadata": {"span": ["too"], "target_letter": "o"}}) == "t 0, o 1, o 2"


def test_workings_lead_to_the_packages_answer() -> None:
    for case in generate_cases("rg:chain_sum", 200, 0, thinking=1):
        assert case.reference["reasoning_content"].endswith(f"={case.answer}")
    for case in generate_cases("rg:letter_counting", 200, 0, thinking=1):
        assert case.reference["reasoning_content"].endswith(f" {case.answer}")
    for case in generate_cases("rg:gcd", 200, 0, thinking=1):
        assert re.search(rf"\b{case.answer} 0$", case.reference["reasoning_content"])


def test_tasks_without_a_working_do_not_think() -> None:
    assert not any(case.enable_thinking for case in generate_cases("rg:products", 30, 0, thinking=1))


def test_configuration_is_handed_through_and_mistakes_are_said_plainly() -> None:
    cases = generate_cases("rg:chain_sum", 20, 0, config={"min_terms": 4, "max_terms": 4})
    assert all(len(re.findall(r"\d+", case.question)) == 4 for case in cases)
    with pytest.raises(DataError, match="no task 'chain_sums'"):
        generate_cases("rg:chain_sums", 3, 0)
    with pytest.raises(DataError, match="refuses the settings"):
        generate_cases("rg:chain_sum", 3, 0, config={"terms": 4})


def test_options_of_a_recipe_are_the_tasks_settings_and_unknown_ones_are_named() -> None:
    [case] = generate_cases("rg:chain_sum", 1, 0, "train", thinking=0.0, min_terms=5, max_terms=5)
    assert len(case.verifier_args["entry"]["metadata"]["expression"].replace("-", "+").split("+")) == 5
    with pytest.raises(DataError, match=r"chain_sum.*max_trems"):
        generate_cases("rg:chain_sum", 1, 0, "train", max_trems=3)
