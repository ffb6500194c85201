"""Lists and letters: answers found again by an independent reading of the question."""

from __future__ import annotations

import re
from collections import Counter

from luopan.corpus.skills import generate_cases
from luopan.corpus.skills.letters import counting_working, reversing_working
from luopan.corpus.skills.words import words


def test_counting_counts() -> None:
    for case in generate_cases("counting", 500, 0):
        listed = re.search(r"\w+(?:, \w+)+(?=[?.,])", case.question.removeprefix("In the list "))
        assert listed is not None
        items = listed.group().split(", ")
        assert f"{len(items)} items" == case.variant and set(items) <= set(words("items"))
        assert items.count(_target(case.question)) == int(case.answer)


def _target(question: str) -> str:
    patterns = (r"does (\w+) occur", r"Count (\w+) in", r"times is (\w+)", r"you see (\w+):")
    return next(found.group(1) for pattern in patterns if (found := re.search(pattern, question)))


def test_counting_thinks_with_a_running_count() -> None:
    for case in generate_cases("counting", 200, 0, thinking=1):
        target, steps = _target(case.question), case.reference["reasoning_content"].split(", ")
        seen = 0
        for step in steps:
            item, count = step.split()
            seen += item == target
            assert int(count) == seen
        assert seen == int(case.answer)
        assert f"{len(steps)} items" == case.variant


def test_sorting_sorts_and_thinks_by_taking_the_smallest() -> None:
    for case in generate_cases("sorting", 300, 0, thinking=1, falling=0.5):
        numbers = list(map(int, re.findall(r"\d+", case.question)))
        answer = list(map(int, case.answer.split()))
        falling = "large to small" in case.question or "falling" in case.question or "largest first" in case.question
        assert answer == sorted(numbers, reverse=falling) and len(set(numbers)) == len(numbers)
        taken = [int(step.split(": ")[1]) for step in case.reference["reasoning_content"].split(", ")]
        assert taken == answer


def test_sorting_working_by_hand() -> None:
    case = next(
        c for c in generate_cases("sorting", 500, 0, thinking=1, lengths=(3,), digits=(1,)) if c.answer == "3 7 9"
    )
    first, *_ = case.reference["reasoning_content"].split(", ")
    assert first.endswith(": 3") and case.reference["reasoning_content"].endswith(": 9")


def test_copying_and_the_last_item() -> None:
    for case in generate_cases("copying", 200, 0):
        assert case.question.rstrip(".").endswith(case.answer)
    for case in generate_cases("last_item", 200, 0):
        listed = re.findall(r"[a-z]+", case.question.split(":")[1])
        assert case.answer == (listed[-1] if case.variant == "last" else listed[0])


def test_counting_letters() -> None:
    assert counting_working("rarb", "r") == "r 1 a 1 r 2 b 2"
    answers = []
    for case in generate_cases("letter_counting", 400, 0, thinking=1.0):
        read = re.fullmatch(r".*?\b([a-z])(?: are in| occur in|:| in) ((?:[a-z] )*[a-z])\??", case.question)
        assert read is not None, case.question
        assert read[2].split().count(read[1]) == int(case.answer)
        assert case.reference["reasoning_content"].split()[-1] == case.answer
        answers.append(case.answer)
    few = generate_cases("letter_counting", 50, 0, alphabet="abc", lengths=(3,), most=2)
    assert {one for case in few for one in case.question.split()[-3:]} <= {*"abc", "a?", "b?", "c?"}
    assert max(Counter(answers).values()) < 0.3 * len(answers), "always the same answer must not pay"


def test_reversing_working_by_hand() -> None:
    assert reversing_working("cat") == "1 c 2 a 3 t, 3 t 2 a 1 c"


def test_reversing_and_spelling_in_both_variants() -> None:
    for case in generate_cases("reversing", 300, 0, spaced=0.5):
        assert case.answer.split() == list(reversed(_letters_asked(case.question, case.variant)))
    for case in generate_cases("spelling", 300, 0, spaced=0.5):
        asked = _letters_asked(case.question, case.variant)
        assert case.answer == ("".join(asked) if case.variant == "spaced" else " ".join(asked))


def _letters_asked(question: str, variant: str) -> list[str]:
    if variant == "spaced":
        return re.findall(r"\b[a-z]\b", question.split(":")[1])
    known = {word for length in (3, 4, 5) for word in words(f"spell{length}")}
    found = [word for word in re.findall(r"[a-z]+", question) if word in known]
    assert found, question
    return list(found[-1])


def test_word_lists_hold_no_repeats() -> None:
    for name in ("items", "names", "places", "objects", "colors", "foods", "cities", "spell3", "spell4", "spell5"):
        assert len(set(words(name))) == len(words(name)) >= 10, name
    for length in (3, 4, 5):
        assert {len(word) for word in words(f"spell{length}")} == {length}
