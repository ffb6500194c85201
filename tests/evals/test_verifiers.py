"""Verifiers: fair about form, strict about the answer, and None only where the rule could not judge."""

from __future__ import annotations

import pytest

from luopan.errors import LuopanError
from luopan.evals.verifiers import answer_of, find, grade, has_phrase, verifier_names, verify


def score(name: str, text: str, **args: object) -> float | None:
    return verify(name, text, **args).score


@pytest.mark.parametrize(
    "text",
    [
        "130",
        " 130\n",
        "130.",
        "It is 130.",
        "The answer is 130!",
        "**130**",
        "130.0",
        "= 130",
        "x = 130",
        "130 apples",
        "+130",
    ],
)
def test_number_accepts_the_one_number_in_fair_forms(text: str) -> None:
    assert score("number", text, answer=130) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "", "131", "130 131", "129 or 130", "12+118=130", "130 130", "1 3 0", "130a", "x130", "13", "1300", "-130",
        "It is not 130.", "130/2", "130*1", "1.130", "0.130", "130.5", "one hundred and thirty", "130-1", "13,0",
        "131 - 1 = 130", "130 = 130", "130th", "99-130", "a+130", "130 = x", "130%", "n/130",
    ],
)  # fmt: skip
def test_number_refuses_what_merely_contains_it(text: str) -> None:
    assert score("number", text, answer=130) == 0.0


def test_number_reads_signs_separators_and_decimals() -> None:
    assert score("number", "-5", answer=-5) == score("number", "−5", answer=-5) == 1.0
    assert score("number", "1,234", answer=1234) == score("number", "1234", answer="1,234") == 1.0
    assert score("number", "0.5", answer="0.50") == 1.0
    assert score("number", "5", answer=-5) == 0.0
    assert score("number", "7", answer=0) == 0.0


def test_exact_and_one_of_forgive_case_space_and_edges_only() -> None:
    assert score("exact", ' "Fox." ', answer="fox") == 1.0
    assert score("exact", "Anna is in  the kitchen", answer="Anna is in the kitchen.") == 1.0
    assert score("exact", "the fox", answer="fox") == 0.0
    assert score("exact", "", answer="fox") == 0.0
    assert score("one_of", "Kitchen.", answers=["in the kitchen", "kitchen"]) == 1.0
    assert score("one_of", "kitchen or garden", answers=["in the kitchen", "kitchen"]) == 0.0


@pytest.mark.parametrize("text", ["3 7 19", "3, 7, 19", "3,7,19.", "[3, 7, 19]", "3\n7\n19"])
def test_items_forgive_separators(text: str) -> None:
    assert score("items", text, answer="3 7 19") == 1.0


@pytest.mark.parametrize("text", ["3 19 7", "3 7", "3 7 19 20", "3 7 1 9", "sorted: 3 7 19", ""])
def test_items_must_be_all_and_in_order(text: str) -> None:
    assert score("items", text, answer="3 7 19") == 0.0


def test_items_take_a_list_and_know_an_empty_reference() -> None:
    assert score("items", "red Blue", answer=["red", "blue"]) == 1.0
    assert score("items", "red", answer="") is None


def test_letters_ignore_what_stands_between_them() -> None:
    for text in ("t a c", "tac", "T-A-C", "t, a, c."):
        assert score("letters", text, answer="t a c") == 1.0
    for text in ("c a t", "t a c s", "the letters t a c", ""):
        assert score("letters", text, answer="t a c") == 0.0
    assert score("letters", "a", answer="") is None


def test_contains_looks_for_whole_words() -> None:
    assert score("contains", "I am Luopan, made by people.", all=["luopan"]) == 1.0
    assert score("contains", "I am Luopanese.", all=["Luopan"]) == 0.0
    assert score("contains", "made by  the\nLuopan project", all=["the Luopan project"]) == 1.0
    assert score("contains", "I see the cat", any=["dog", "cat"]) == 1.0
    assert score("contains", "concatenate", any=["dog", "cat"]) == 0.0
    assert score("contains", "a cat and a dog", all=["cat"], none=["dog"]) == 0.0
    assert score("contains", "", none=["dog"]) == 0.0
    assert score("contains", "hello") is None


def test_has_phrase_at_edges_of_punctuation() -> None:
    assert has_phrase("So. Arr!", "Arr!") and has_phrase("(Arr!)", "arr!")
    assert not has_phrase("Barr!", "Arr!") and not has_phrase("anything", " ")


def test_styles() -> None:
    assert score("style", "I AM FINE. 1 2", kind="uppercase") == 1.0
    assert score("style", "I AM fine.", kind="uppercase") == score("style", "12!", kind="uppercase") == 0.0
    assert score("style", "i am fine.", kind="lowercase") == 1.0
    assert score("style", "I am fine.", kind="lowercase") == 0.0
    assert score("style", "I am fine.  Arr!\n", kind="ends_with", value="Arr!") == 1.0
    assert score("style", "Arr! I am fine.", kind="ends_with", value="Arr!") == 0.0
    assert score("style", "Arr!", kind="ends_with", value="Arr!") == 0.0
    assert score("style", "I am fine. Arr! Arr! Arr!", kind="ends_with", value="Arr!") == 0.0
    assert score("style", "Howdy! Fine.", kind="starts_with", value="Howdy!") == 1.0
    assert score("style", "Yes, sir.", kind="says", value="sir") == 1.0
    assert score("style", "Yes, sirup.", kind="says", value="sir") == 0.0
    assert score("style", "Yes.", kind="sings", value="la") is None
    assert score("style", "Yes.", kind="ends_with") is None


def test_unmarked_finds_a_mark_anywhere() -> None:
    styles = [{"kind": "ends_with", "value": "Arr!"}, {"kind": "uppercase"}]
    assert score("unmarked", "I am fine.", styles=styles) == 1.0
    assert score("unmarked", "Arr! I am fine.", styles=styles) == 0.0
    assert score("unmarked", "I AM FINE.", styles=styles) == 0.0
    assert score("unmarked", "", styles=styles) == 0.0


def test_manners() -> None:
    assert score("polite", "You are welcome!") == score("concise", "You are welcome!") == 1.0
    assert score("polite", "You are welcome! NOW GO AWAY.") == 0.0
    assert score("concise", "You are welcome! And so on, and so on.") == 0.0
    assert score("polite", "") == 0.0


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("<think>\n1+1=2\n</think>\n2", 1.0, 0.0),
        ("2", 0.0, 1.0),
        ("<think>\n1+1=2", 0.0, 0.0),
        ("<think></think>\n2", 0.0, 0.0),
        ("<think>\n1+1=2\n</think>\n", 0.0, 0.0),
        ("well <think>1</think> 2", 0.0, 0.0),
        ("<think>1</think><think>1</think> 2", 0.0, 0.0),
        ("1</think> 2", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_thinking_format(text: str, on: float, off: float) -> None:
    assert score("thinking_format", text, enable_thinking=True) == on
    assert score("thinking_format", text, enable_thinking=False) == off


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n9 9\n</think>\n130", "130"),
        ("130", "130"),
        ("<think>130", None),
        ("<think>1</think> <think>130", None),
        ("1</think>130", "130"),
        ("<think></think>", ""),
    ],
)
def test_thinking_is_taken_off(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer


def test_an_answer_inside_the_thought_earns_nothing() -> None:
    assert score("number", "<think>\n130\n</think>\n131", answer=130) == 0.0
    assert score("number", "<think>\n130", answer=130) == 0.0
    assert score("contains", "<think>Luopan", all=["Luopan"]) == 0.0
    assert score("number", "<think>\n99 98\n</think>\n130", answer=130) == 1.0


def test_all_of_takes_the_worst_and_keeps_the_parts() -> None:
    checks = [
        {"part": "style", "name": "style", "args": {"kind": "ends_with", "value": "Arr!"}},
        {"part": "content", "name": "contains", "args": {"any": ["fine"]}},
    ]
    verdict = verify("all_of", "I am well. Arr!", checks=checks)
    assert verdict.score == 0.0 and verdict.parts == {"style": 1.0, "content": 0.0}
    assert verify("all_of", "I am fine. Arr!", checks=checks).passed
    assert score("all_of", "x", checks=[]) is None
    assert score("all_of", "x", checks=[{"name": "number", "args": {"answer": "many"}}]) is None


def test_none_means_that_the_rule_could_not_judge() -> None:
    assert score("number", "5", answer="many") is None
    assert score("number", "5", reply=5) is None
    assert score("reasoning_gym", "5", task="no_such_task", entry={}) is None


def test_reasoning_gym_scores_are_right_or_wrong_unless_asked_otherwise() -> None:
    pytest.importorskip("reasoning_gym")
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=1)[0]
    answer = entry["answer"]
    assert score("reasoning_gym", answer, task="chain_sum", entry=entry) == 1.0
    assert score("reasoning_gym", f"<think>\n0\n</think>\n{answer}", task="chain_sum", entry=entry) == 1.0
    several = f"{answer} or 99999"
    assert score("reasoning_gym", several, task="chain_sum", entry=entry) == 0.0
    partial = score("reasoning_gym", several, task="chain_sum", entry=entry, partial=True)
    assert partial is not None and 0 < partial < 1


def test_verifiers_are_found_by_name() -> None:
    assert {"exact", "number", "contains", "one_of", "thinking_format", "reasoning_gym"} <= set(verifier_names())
    with pytest.raises(LuopanError, match="did you mean 'number'"):
        find("numbr")
    with pytest.raises(LuopanError, match="verifiers: exact"):
        verify("zzz", "5")


def test_grade_uses_the_cases_own_verifier() -> None:
    from luopan.corpus.skills import generate_cases

    case = generate_cases("addition", 1, 0)[0]
    assert grade(case, case.answer).passed and not grade(case, "none of your business").passed
