"""Hand-written families: enough wordings, replies that their own rules accept and other topics' rules do not."""

from __future__ import annotations

import re
from random import Random

import pytest

from luopan.corpus.skills import generate_cases
from luopan.corpus.skills.persona import apply_style, marks
from luopan.corpus.skills.talk import talk_rows
from luopan.corpus.skills.wording import dress, split_wordings, topic_wordings
from luopan.corpus.skills.words import rows, words
from luopan.errors import DataError
from luopan.evals.verifiers import style, unmarked, verify


def test_there_are_enough_wordings_and_none_twice() -> None:
    identity = [text for row in rows("identity.jsonl") for text in row["questions"]]
    talk = [text for row in rows("talk.jsonl") for text in row["users"]]
    assert len(identity) >= 150 and len(talk) >= 300
    for lines in (identity, talk):
        assert len({line.lower().rstrip("?.!") for line in lines}) == len(lines)
    assert not {line.lower().rstrip("?.!") for line in identity} & {line.lower().rstrip("?.!") for line in talk}
    assert len(rows("persona.jsonl")) >= 8


def test_wordings_are_held_out_per_topic() -> None:
    wordings = tuple(f"wording {number}" for number in range(10))
    train, test = split_wordings(wordings, "train"), split_wordings(wordings, "test")
    assert len(test) == 2 and set(train) | set(test) == set(wordings) and not set(train) & set(test)
    assert split_wordings(("a", "b"), "test") == ()
    assert set(split_wordings(tuple(reversed(wordings)), "test")) == set(test)


@pytest.mark.parametrize(("file", "field"), [("identity.jsonl", "questions"), ("talk.jsonl", "users")])
def test_every_topic_is_on_both_sides(file: str, field: str) -> None:
    for row in rows(file):
        train, test = topic_wordings(row[field], "train"), topic_wordings(row[field], "test")
        plain = {text.lower().rstrip("?.!") for text in train}
        assert train and test
        assert not plain & {text.lower().rstrip("?.!") for text in test}, row["topic"]


def test_a_topic_does_not_accept_another_topics_reply() -> None:
    topics = talk_rows(slots=False)
    crossed = [
        (row["topic"], other["topic"])
        for row in topics
        for other in topics
        if row is not other
        for reply in other["replies"]
        if verify("contains", reply, any=row["any"]).passed
    ]
    assert len(crossed) <= 4, crossed


def test_dressing_keeps_the_words() -> None:
    random = Random(0)
    seen = {dress(random, "Who are you?") for _ in range(200)}
    assert "Who are you?" in seen and "who are you" in seen and "Hi! Who are you?" in seen
    assert all("who are you" in text.lower() for text in seen)
    assert {dress(random, "Hi", openers=False) for _ in range(200)} == {"Hi", "hi"}


def test_identity_takes_another_name_and_maker_everywhere() -> None:
    cases = generate_cases("identity", 800, 0, name="Mira", maker="a class of students", abilities="spell words")
    replies = {case.answer for case in cases}
    assert not [reply for reply in replies if "luopan" in reply.lower() or "{" in reply]
    assert "I am Mira, a small language model made by a class of students." in replies
    assert "I can spell words." in replies
    named = next(case for case in cases if case.variant == "name")
    assert not verify(named.verifier, "My name is Luopan.", **named.verifier_args).passed


def test_identity_answers_one_way_per_topic() -> None:
    answers: dict[str, set[str]] = {}
    for case in generate_cases("identity", 1000, 0):
        answers.setdefault(case.variant, set()).add(case.answer)
    assert len(answers) >= 15 and all(len(found) == 1 for found in answers.values())


def test_identity_topics_limit_the_questions() -> None:
    cases = generate_cases("identity", 60, 0, topics=["name", "maker"])
    assert {case.variant for case in cases} == {"name", "maker"}


def test_talk_asks_back_what_was_said() -> None:
    told = untold = 0
    for case in generate_cases("talk", 1500, 0, follow=1.0, untold=0.3):
        said = " ".join(message["content"] for message in case.messages[:-1] if message["role"] == "user")
        if case.variant == "untold":
            untold += 1
            assert case.answer == "You did not tell me that."
        else:
            told += 1
            (value,) = case.verifier_args["all"]
            assert value in said and value in case.answer and "{" not in said
    assert untold / (told + untold) == pytest.approx(0.3, abs=0.05)


def test_talk_has_several_turns_when_asked_to() -> None:
    turns = [len(case.messages) for case in generate_cases("talk", 500, 0, multi_turn=1.0, follow=0)]
    assert set(turns) == {3, 5}
    assert {len(case.messages) for case in generate_cases("talk", 200, 0, multi_turn=0, follow=0)} == {1}


def test_test_contexts_are_training_lines() -> None:
    trained = {fill for row in talk_rows(slots=False) for fill in topic_wordings(row["users"], "train")}
    for case in generate_cases("talk", 200, 0, "test", multi_turn=1.0, follow=0):
        assert {message["content"] for message in case.messages[:-1] if message["role"] == "user"} <= trained


def test_slots_stay_capitalised_where_the_line_is_not() -> None:
    for case in generate_cases("talk", 2000, 0):
        if case.variant == "myname":
            assert any(name in case.question for name in words("names")), case.question


@pytest.mark.parametrize("persona", rows("persona.jsonl"), ids=lambda row: row["persona"])
def test_each_mark_shows_with_its_persona_and_not_without(persona: dict) -> None:
    for row in talk_rows(slots=False):
        for reply in row["replies"]:
            styled = apply_style(reply, persona["style"])
            assert style(styled, **persona["style"]).passed, styled
            assert not style(reply, **persona["style"]).passed, reply
            assert unmarked(reply, styles=marks()).passed
            if persona["style"] in marks():
                assert not unmarked(styled, styles=marks()).passed


def test_persona_by_hand() -> None:
    assert apply_style("I am fine.", {"kind": "says", "value": "sir"}) == "I am fine, sir."
    assert apply_style("I am fine.", {"kind": "ends_with", "value": "Arr!"}) == "I am fine. Arr!"
    assert apply_style("I am fine.", {"kind": "starts_with", "value": "Howdy!"}) == "Howdy! I am fine."
    assert apply_style("I am fine.", {"kind": "uppercase"}) == "I AM FINE."


def test_personas_answer_with_their_own_name() -> None:
    seen = set()
    for case in generate_cases("persona", 3000, 0):
        if case.variant == "pirate" and "Captain Reef" in case.answer:
            seen.add(case.answer)
        if case.variant == "named":
            system = case.messages[0]["content"]
            (who,) = case.verifier_args["checks"][-1]["args"]["all"]
            assert who in system and who in case.answer and "Luopan" not in case.answer
        if case.variant not in ("named", "plain", "capitals", "small letters"):
            assert "luopan" not in case.answer.lower()
    assert seen == {"My name is Captain Reef. Arr!", "I am Captain Reef, a pirate. Arr!"}


def test_persona_combinations_are_new_in_the_test_and_their_halves_are_not() -> None:
    train = generate_cases("persona", 20000, 0)
    test = generate_cases("persona", 400, 0, "test")
    systems = {case.messages[0]["content"] for case in train if len(case.messages) > 1}
    lines = {case.question for case in train}
    combined = {(case.variant, case.question) for case in train if case.variant != "named"}
    assert not combined & {(case.variant, case.question) for case in test if case.variant != "named"}
    assert len({case.question for case in test} - lines) < 10  # a rare line may not have come up yet
    assert {case.messages[0]["content"] for case in test if len(case.messages) > 1} <= systems


def test_persona_verdicts_keep_style_and_content_apart() -> None:
    case = next(c for c in generate_cases("persona", 500, 0, negative=0, named=0) if c.variant == "robot")
    verdict = verify(case.verifier, "Beep boop. Bananas are yellow.", **case.verifier_args)
    assert verdict.score == 0 and verdict.parts == {"style": 1.0, "content": 0.0}
    plain = case.answer.removeprefix("Beep boop. ")
    assert verify(case.verifier, plain, **case.verifier_args).parts == {"style": 0.0, "content": 1.0}


def test_negative_persona_cases_refuse_marks() -> None:
    for case in generate_cases("persona", 100, 0, negative=1, named=0):
        assert case.variant == "plain"
        assert not verify(case.verifier, f"{case.answer} Arr!", **case.verifier_args).passed
        assert not verify(case.verifier, case.answer.upper(), **case.verifier_args).passed


def test_an_unknown_word_list_is_named() -> None:
    with pytest.raises(DataError, match="no word list 'planets'"):
        words("planets")


def test_replies_are_short_plain_english() -> None:
    for row in (*rows("talk.jsonl"), *rows("identity.jsonl")):
        for reply in row.get("replies") or [row["answer"]]:
            assert len(reply) <= 90 and re.fullmatch(r"[A-Za-z{} ,.!?']+", reply), reply
