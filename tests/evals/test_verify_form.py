"""Choices, JSON and patterns: what passes, what does not, and what could not be judged."""

from __future__ import annotations

import pytest

from luopan.evals.verifiers import verify
from luopan.evals.verify_form import choice, json, pattern


@pytest.mark.parametrize(
    "text",
    [
        "B", "(B)", "b.", "[B]", "The answer is (B).", "**Answer: B**", "The answer is **B**", "B) Rome is no city",
        r"\boxed{B}", r"So it is \boxed{\text{(B)}}.", "The correct answer is B: it floats", "A sinks. Answer: B",
        "The answer is B. Again: the answer is B",
    ],
)  # fmt: skip
def test_a_stated_letter(text: str) -> None:
    assert choice(text, answer="B").score == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "", "A", "A or B", "A, B", "The answer is A. The answer is B", "Option B looks odd. Answer: A", "A big answer",
        "The answer is Brussels", "The answer is B's friend", "AB", "Bb", "B is right",
    ],
)  # fmt: skip
def test_no_letter_another_or_several(text: str) -> None:
    assert choice(text, answer="B").score == 0.0


def test_the_choices_own_words_count_and_must_agree_with_the_letter() -> None:
    cities = ["Rome", "Paris"]
    assert choice("Paris.", answer="B", choices=cities).score == 1.0
    assert choice("B) paris", answer="(b)", choices=cities).score == 1.0
    assert choice("B) Rome", answer="B", choices=cities).score == 0.0
    assert choice("C", answer="B", choices=cities).score == 0.0
    assert choice("B", answer="C", choices=cities).score is None
    assert choice("B", answer="Paris").score is None


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("text", "schema", "score"),
    [
        ('{"a": [1, null]}', None, 1.0),
        ("\n5\n", None, 1.0),
        ('```json\n{"age": 3}\n```', SCHEMA, 1.0),
        ('Here: {"age": 3}', None, 0.0),
        ('{"age": 3,}', None, 0.0),
        ('{"age": NaN}', None, 0.0),
        ("", None, 0.0),
        ("[" * 100_000, None, 0.0),
        ('{"age": "3"}', SCHEMA, 0.0),
        ("{}", SCHEMA, 0.0),
        ("1", {"type": "zzz"}, None),
        ("1", {"$ref": "http://localhost/schema"}, None),
        ("1", {"$ref": "#"}, None),
    ],
)
def test_json_and_its_schema(text: str, schema: dict | None, score: float | None) -> None:
    verdict = verify("json", text, schema=schema)
    assert verdict.score == score
    assert bool(verdict.reason) == (score != 1.0)


def test_a_fence_may_be_forbidden_and_the_place_of_a_fault_is_told() -> None:
    assert json("```\n1\n```", fenced=False).score == 0.0
    assert "several letters: A, B" in choice("The answer is A. The answer is B", answer="B").reason
    assert "at age" in json('{"age": "3"}', schema=SCHEMA).reason


def test_a_schema_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *what, **_: fetched.append(what))
    verdict = json("1", schema={"$ref": "http://localhost/schema"})
    assert verdict.score is None and "what is not in it" in verdict.reason and fetched == []


def test_patterns() -> None:
    assert pattern("an apple a day", regex=r"a\w+le").score == 1.0
    assert pattern("an apple a day", regex=r"a\w+le", whole=True).score == 0.0
    assert pattern("APPLE", regex="apple").score == 0.0
    assert pattern("APPLE", regex="apple", ignore_case=True).score == 1.0
    assert pattern("a\nb", regex="^b$").score == 0.0
    assert pattern("a\nb", regex="^b$", multiline=True).score == 1.0
    assert pattern("pear", regex="apple", absent=True).score == 1.0
    assert pattern("apple", regex="apple", absent=True).score == 0.0
    assert pattern("", regex="apple", absent=True).score == 0.0
    assert pattern("a", regex="(").score is None
