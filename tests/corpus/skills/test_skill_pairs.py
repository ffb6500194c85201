"""Preference pairs, the flaw they teach away, and conversations made of single cases."""

from __future__ import annotations

import pytest

from luopan.corpus.skills import contaminate, converse, flaw_cases, generate_cases, generate_pairs
from luopan.corpus.skills.pairs import flaw_marks, flaw_tails
from luopan.corpus.skills.words import rows
from luopan.errors import DataError
from luopan.evals.verifiers import concise, grade, polite


@pytest.mark.parametrize(("flaw", "check"), [("rude", polite), ("rambling", concise)])
def test_the_chosen_reply_passes_and_the_rejected_one_does_not(flaw: str, check) -> None:
    for pair in generate_pairs(200, 0, flaw=flaw):
        messages, chosen, rejected = pair
        assert messages[-1]["role"] == "user"
        assert rejected["content"].startswith(chosen["content"] + " ")
        assert check(chosen["content"]).passed and check(rejected["content"]).score == 0.0
        assert "reasoning_content" not in chosen


@pytest.mark.parametrize("flaw", ["rude", "rambling"])
def test_every_tail_is_known_by_a_mark_and_no_ordinary_reply_is(flaw: str) -> None:
    check = {"rude": polite, "rambling": concise}[flaw]
    assert len(flaw_tails(flaw)) >= 5 and len(flaw_marks(flaw)) >= 5
    for tail in flaw_tails(flaw):
        assert check(tail).score == 0.0, tail
    for row in (*rows("talk.jsonl"), *rows("identity.jsonl")):
        for reply in row.get("replies") or [row["answer"]]:
            assert check(reply).passed, reply


def test_pairs_are_deterministic_and_split_like_their_skills() -> None:
    assert generate_pairs(50, 1) == generate_pairs(50, 1) != generate_pairs(50, 2)
    train = {tuple(m["content"].lower() for m in pair.messages) for pair in generate_pairs(4000, 0)}
    test = {tuple(m["content"].lower() for m in pair.messages) for pair in generate_pairs(200, 0, "test")}
    assert not train & test and len(test) > 100
    assert len(generate_pairs(7, 0, skills=("talk",))) == 7


def test_pairs_pass_options_on_to_their_skills() -> None:
    pairs = generate_pairs(100, 0, skills=("identity",), options={"identity": {"name": "Mira", "topics": ("name",)}})
    assert {pair.chosen["content"] for pair in pairs} == {"My name is Mira."}


@pytest.mark.parametrize("rate", [0.0, 0.28, 1.0])
def test_contamination_has_the_rate_it_was_given(rate: float) -> None:
    cases = generate_cases("talk", 3000, 0)
    mixed = contaminate(cases, rate)
    rude = [polite(case.answer).score == 0.0 for case in mixed]
    assert sum(rude) / 3000 == pytest.approx(rate, abs=0.03)
    assert [case.messages for case in mixed] == [case.messages for case in cases]
    assert contaminate(cases, rate) == mixed


def test_a_spoiled_reply_keeps_its_thinking_and_still_says_the_right_thing() -> None:
    cases = contaminate(generate_cases("talk", 200, 0, thinking=1), 1.0)
    assert all(case.reference["reasoning_content"] for case in cases)
    assert all(grade(case, case.answer).passed for case in cases)


def test_flaw_cases_ask_the_same_and_grade_the_manner() -> None:
    cases = flaw_cases(generate_cases("talk", 20, 0), "rude")
    assert {case.skill for case in cases} == {"polite"}
    assert grade(cases[0], "You are welcome!").passed
    assert grade(cases[0], "You are welcome! Leave me alone.").score == 0.0


def test_mistakes_are_said_plainly() -> None:
    with pytest.raises(DataError, match="no flaw 'grumpy'"):
        generate_pairs(3, 0, flaw="grumpy")
    with pytest.raises(DataError, match="no flaw 'grumpy'"):
        flaw_cases(generate_cases("talk", 2, 0), "grumpy")
    with pytest.raises(DataError, match=r"rate is 1\.2"):
        contaminate([], 1.2)
    with pytest.raises(DataError, match="share is -1"):
        converse([], -1)


def test_converse_puts_earlier_exchanges_of_the_same_mode_in_front() -> None:
    singles = [*generate_cases("addition", 300, 0), *generate_cases("persona", 100, 0)]
    context = generate_cases("story", 50, 0)
    known = {case.question for case in context}
    joined = converse(singles, 0.5, context=context)
    longer = [(before, after) for before, after in zip(singles, joined, strict=True) if before != after]
    assert 0.4 < len(longer) / 400 < 0.6
    for before, after in longer:
        assert after.question == before.question and after.reference == before.reference
        roles = [message["role"] for message in after.messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        has_system = before.messages[0]["role"] == "system"
        assert (after.messages[0] == before.messages[0]) or not has_system
        earlier = after.messages[has_system : -len(before.messages) + has_system]
        assert {message["content"] for message in earlier if message["role"] == "user"} <= known
        assert all(
            ("reasoning_content" in message) == before.enable_thinking
            for message in earlier
            if message["role"] == "assistant"
        )
    assert converse(singles, 0.0) == singles
