"""Mathematics: where the final answer stands, when it equals the reference, and what cannot be judged."""

from __future__ import annotations

import pytest

from luopan.evals.final_answer import final_answer
from luopan.evals.verifiers import Job, verify, verify_many
from luopan.evals.verify_math import numeric


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"First \boxed{3}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{a\}b} and \boxed{4", r"a\}b"),
        ("12 - 5 = 7\n#### 7", "7"),
        ("#### 3\nno\n#### 1,234 ", "1,234"),
        ("It was long.\nThe answer is $x = 5$ because $6$ is too big.", "x = 5"),
        ("The answer is 5, not 6.", "5"),
        ("**Answer:** 18 dollars.", "18 dollars"),
        ("The answer is 2. The answer is 3.", "3"),
        ("x + 1", "x + 1"),
        ("It is 12.", "It is 12"),
        (r"\[ \frac12 \]", r"\frac12"),
        ("It is 12 or 13.", None),
        ("12\n13", None),
        (r"\boxed{5", None),
        ("", None),
        ("  \n", None),
    ],
)
def test_the_final_answer_is_the_last_that_is_marked(text: str, found: str | None) -> None:
    assert final_answer(text) == found


def test_a_box_may_be_asked_for_and_the_last_line_allowed() -> None:
    assert final_answer("The answer is 5", "boxed") is None
    assert final_answer(r"\boxed{5}", "boxed") == "5"
    assert final_answer("so\nthe 3 and 4 make 7", "last") == "the 3 and 4 make 7"


EQUAL = [
    (r"So \boxed{\frac{2}{4}}", "0.5"),
    ("#### 1,234", "They pay 1,234 in all.\n#### 1234"),
    ("The answer is $x=5$.", "5"),
    ("7 + 5 = 12", "12"),
    ("1 + x", "x+1"),
    (r"\boxed{2, 1}", r"\{1,2\}"),
    (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
    (r"5 \times 10^{3}", "5000"),
    ("1.5e-3", "0.0015"),
    (r"\boxed{\left(3,\frac{\pi}{2}\right)}", r"$\left( 3, \frac{\pi}{2} \right)$"),
    ("<think>\nmaybe 6\n</think>\n5", r"\boxed{5}"),
]
DIFFERENT = [
    ("The answer is not 5", "5"),
    ("2+3", "5"),
    (r"\boxed{2 \cdot 3 - 1}", "5"),
    ("-3", "3"),
    ("(1,2)", "(2,1)"),
    ("13", "12"),
    ("The answer is 0.33", "1/3"),
    ("five", "5"),
    ("", "5"),
    ("<think>\n5", "5"),
    ("x - 1", "x+1"),
]


def test_math_is_equality_of_what_is_worked_out() -> None:
    pytest.importorskip("math_verify")
    verdicts = verify_many([Job("math", text, {"answer": answer}) for text, answer in EQUAL + DIFFERENT])
    assert [verdict.score for verdict in verdicts] == [1.0] * len(EQUAL) + [0.0] * len(DIFFERENT)
    assert all(verdict.reason for verdict in verdicts[len(EQUAL) :])


def test_a_reference_that_does_not_parse_is_nobodys_fault() -> None:
    pytest.importorskip("math_verify")
    for answer in (r"\frac{", "two apples", ""):
        verdict = verify("math", "5", answer=answer)
        assert verdict.score is None and "reference" in verdict.reason
    assert "no mathematical expression" in verify("math", "5", answer="two apples").reason


def test_computer_algebra_that_never_ends_is_ended_and_the_rest_is_graded() -> None:
    pytest.importorskip("math_verify")
    jobs = [Job("math", text, {"answer": "5/3"}) for text in (r"\boxed{9^{9^{9^9}}}", r"\boxed{\frac{10}{6}}")]
    hung, right = verify_many(jobs, limit_s=1)
    assert hung.score is None and "1 s of processor time" in hung.reason
    assert right.score == 1.0


@pytest.mark.parametrize(
    ("text", "answer", "options", "score"),
    [
        ("3.14159", 3.14, {"tolerance": 0.01}, 1.0),
        ("3.16", 3.14, {"tolerance": 0.01}, 0.0),
        ("1/3", 0.3333, {"relative": 1e-3}, 1.0),
        ("about 3.2e3 m", 3200, {}, 1.0),
        ("1,234.5", "#### 1234.5", {}, 1.0),
        ("−2", -2, {}, 1.0),
        ("-2", 2, {}, 0.0),
        ("3 4", 4, {}, 0.0),
        ("3 4", 4, {"where": "last"}, 1.0),
        ("The answer is not 4", 4, {}, 0.0),
        ("1/0", 1, {}, 0.0),
        ("four", 4, {}, 0.0),
        ("4", "four", {}, None),
        ("4", "nan", {"tolerance": 1.0}, None),
        ("4", 4, {"tolerance": -1.0}, None),
    ],
)
def test_numeric_within_a_tolerance(text: str, answer: float | str, options: dict, score: float | None) -> None:
    assert numeric(text, answer=answer, **options).score == score
