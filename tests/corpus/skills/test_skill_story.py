"""Stories are read by a reader of their own, which must come to the same answer; held-out answers stay held out."""

from __future__ import annotations

import re

from luopan.corpus.skills import generate_cases


def read(story: str) -> tuple[dict[str, str], dict[str, str]]:
    """Where each person is and who owns each thing, sentence by sentence."""
    place: dict[str, str] = {}
    owner: dict[str, str] = {}
    for sentence in re.findall(r"[A-Z][^.?:]*\.", story):
        if found := re.match(r"(\w+) (?:is in|goes to|walks to) the (\w+)\.", sentence):
            place[found[1]] = found[2]
        elif found := re.match(r"(\w+) has the (\w+)\.", sentence):
            owner[found[2]] = found[1]
        elif found := re.match(r"(\w+) gives the (\w+) to (\w+)\.", sentence):
            assert owner[found[2]] == found[1], "nobody gives away what they do not have"
            owner[found[2]] = found[3]
        else:
            assert sentence in ("Here is a story.",), sentence
    return place, owner


def test_a_second_reader_comes_to_the_same_answer() -> None:
    for case in generate_cases("story", 1500, 0, change=0.8):
        place, owner = read(case.question)
        question = re.findall(r"[A-Z][^.:?]*\?", case.question)[-1]
        if found := re.match(r"Where is the (\w+)\?", question):
            expected = f"The {found[1]} is in the {place[owner[found[1]]]}."
        elif found := re.match(r"Where is (\w+)\?", question):
            expected = f"{found[1]} is in the {place[found[1]]}."
        else:
            (thing,) = owner
            expected = f"{owner[thing]} has the {thing}."
            assert question in (f"Who has the {thing}?", f"What does {owner[thing]} have?")
        assert case.answer == expected


def test_thinking_quotes_sentences_of_the_story() -> None:
    for case in generate_cases("story", 300, 0, thinking=1):
        quoted = re.findall(r"[A-Z][^.]*\.", case.reference["reasoning_content"])
        assert quoted and all(sentence in case.question for sentence in quoted)
        assert len(quoted) == (2 if case.variant == "thing" else 1)


def test_held_out_answers_are_never_answers_in_training() -> None:
    train = {(case.variant, case.answer) for case in generate_cases("story", 20000, 0)}
    test = {(case.variant, case.answer) for case in generate_cases("story", 300, 0, "test")}
    assert not train & test
    assert len(test) > 50


def test_stories_are_three_to_five_sentences_and_change() -> None:
    cases = generate_cases("story", 1000, 0)
    sentence = re.compile(r"\w+ (?:is in|goes to|walks to|has|gives) the [^?.]*\.")
    lengths = [len(sentence.findall(case.question)) for case in cases]
    assert set(lengths) == {3, 4, 5}
    changed = [bool(re.search(r"goes to|walks to|gives", case.question)) for case in cases]
    assert 0.4 < sum(changed) / 1000 < 0.6
