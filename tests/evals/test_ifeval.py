"""IFEval by hand: every type of instruction followed and not, the odd cases first, and the verifier around them."""

from __future__ import annotations

from typing import Any

import pytest

from luopan.evals.ifeval import CHECKS, followed, ifeval, ifeval_scores, loose_forms
from luopan.evals.ifeval_words import capital_words
from luopan.evals.verifiers import verify

ENGLISH = "the weather is fine today and we walk along the river"
GERMAN = "Das Wetter ist heute schön und wir gehen am Fluss entlang"
MOST, LESS = {"relation": "at least"}, {"relation": "less than"}
SECTIONS = {"section_spliter": "Section", "num_sections": 2}
SECOND = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}

CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    # type: arguments, responses that follow, responses that do not
    "keywords:existence": (
        {"keywords": ["Paris", "c++"]},
        ["in PARIS: C++.", "comparison c++"],
        ["paris", "c++", "ccc paris"],
    ),
    "keywords:frequency": (
        {"keyword": " cat ", "frequency": 2, **MOST},
        ["Cat cat", "concatenate cat"],
        ["cat", "c a t"],
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["cat", "dog"]}, ["concatenate", "dogs"], ["a Cat.", "dog"]),
    "keywords:letter_frequency": (
        {"letter": "A", "let_frequency": 3, "let_relation": "at least"},
        ["bAnana", "a a a"],
        ["aa", "bcd"],
    ),
    "language:response_language": ({"language": "de"}, [GERMAN, "12345"], [ENGLISH]),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, **MOST},
        ["Dr. Who came. He left.", "Yes! No?"],
        ["Dr. Who came", "Mr. Who came"],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a***b***", "a *** b"],
        ["a", "a\n\nb", "a***b***c", "a*** ***b"],
    ),
    "length_constraints:number_words": (
        {"num_words": 3, **LESS},
        ["it's", "one two", "well-known"],
        ["it's me", "a b c"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        SECOND,
        ["One.\n\nThen two.", "a\n\n'then, b", 'a\n\n"Then" b'],
        ["One.\n\nSo then", "Then", "a\n\nThen\n\nc", "a\n\nthens"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[a] [b]", "[] [x][y]"], ["[a]", "[a\n] [b"]),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, ["x\np. p. s. y", "P.P.S"], ["P.S. y", "pps"]),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  * b", "-a\n---"],
        ["* a", "* a\n* b\n* c", "** a\n* b", "a * b - c"],
    ),
    "detectable_format:constrained_response": (
        {},
        ["My answer is maybe.", "So: My answer is no. Bye"],
        ["my answer is no.", "no"],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* and *b*", "**a** *b*", "*a**b*"],
        ["*a*", "**a**", "* * *a*", "*a\nb* *c*"],
    ),
    "detectable_format:multiple_sections": (
        SECTIONS,
        ["Section 1 a\nSection 2 b", "Section1Section 9 Section 4"],
        ["Section 1", "SECTION 1 SECTION 2"],
    ),
    "detectable_format:json_format": (
        {},
        ['{"a": 1}', "```json\n[1]\n```", "```\n5```"],
        ["", "a: 1", "```json\n{}\n``` so", "[" * 9999],
    ),
    "detectable_format:title": ({}, ["<<A title>>\ntext", "<<<a>>>"], ["<<>>", "<< >>", "<a>", "<<a\nb>>"]),
    "combination:two_responses": (
        {},
        ["a ****** b", "a******b******"],
        ["a", "a******a", "a******b******c", "a************b"],
    ),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Say hi. "},
        ["say HI.", "Say hi. Hi!"],
        ["Sure. Say hi.", "Say  hi."],
    ),
    "startend:end_checker": ({"end_phrase": "The end."}, ["So. the END.", 'x The end."'], ["The end. x", "The end"]),
    "startend:quotation": ({}, ['"a"', ' "a "b" c"\n'], ['"', "'a'", '"a', "“a”"]),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and BBC-TV", "DON'T"],
        ["BBC-TV here", "It's Mr. A"],
    ),
    "change_case:english_capital": ({}, [ENGLISH.upper()], [ENGLISH, ENGLISH.upper() + " x", GERMAN.upper(), "123"]),
    "change_case:english_lowercase": ({}, [ENGLISH], [ENGLISH.upper(), ENGLISH.capitalize(), GERMAN.lower()]),
    "punctuation:no_comma": ({}, ["a; b", "a，b"], ["a, b", ","]),
}


def test_all_twenty_five_types_are_here() -> None:
    assert set(CASES) == set(CHECKS) and len(CHECKS) == 25


@pytest.mark.parametrize("name", CHECKS)
def test_by_hand(name: str) -> None:
    args, right, wrong = CASES[name]
    assert [text for text in right if followed(text, [name], [args]) != [True]] == []
    assert [text for text in wrong if followed(text, [name], [args]) != [False]] == []
    assert followed("  \n", [name], [args]) == [False]


def test_less_than_excludes_the_bound() -> None:
    for name, args in (
        ("keywords:frequency", {"keyword": "a", "frequency": 2, **LESS}),
        ("keywords:letter_frequency", {"letter": "a", "let_frequency": 2, "let_relation": "less than"}),
        ("length_constraints:number_sentences", {"num_sentences": 2, **LESS}),
        ("length_constraints:number_words", {"num_words": 2, **LESS}),
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}),
    ):
        assert followed("A.", [name], [args]) == [True]
        assert followed("A. A. A.", [name], [args]) == [False]
    assert followed("a b", ["length_constraints:number_words"], [{"num_words": 2, **LESS}]) == [False]


def test_postscripts_of_other_kinds() -> None:
    name = ["detectable_content:postscript"]
    assert followed("P. S. x", name, [{"postscript_marker": "P.S."}]) == [True]
    assert followed("P. S x, PS", name, [{"postscript_marker": "P.S."}]) == [False]
    assert followed("x note+: y", name, [{"postscript_marker": "NOTE+:"}]) == [True]
    assert followed("x noteee: y", name, [{"postscript_marker": "NOTE+:"}]) == [False]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A NASA report.", 2),
        ("I'M HERE", 3),
        ("IT'S.", 2),
        ("R&B/C", 2),
        ("“ALL”—NONE", 2),
        ("CANNOT", 2),
        ("3D 42", 1),
        ("", 0),
    ],
)
def test_words_in_capitals_are_parted_as_in_the_treebank(text: str, count: int) -> None:
    assert capital_words(text) == count


def test_loose_looks_at_eight_forms() -> None:
    assert loose_forms("Sure:\n*a*\nBye") == [
        "Sure:\n*a*\nBye",
        "*a*\nBye",
        "Sure:\n*a*",
        "*a*",
        "Sure:\na\nBye",
        "a\nBye",
        "Sure:\na",
        "a",
    ]
    assert loose_forms("Sure:\n a\n\nBye")[1:4] == ["a\n\nBye", "Sure:\n a", "a"]
    name, args = ["startend:quotation"], [{}]
    assert followed('Sure:\n"a"', name, args) == [False]
    assert followed('Sure:\n"a"\nBye', name, args, "loose") == followed('*"a"*', name, args, "loose") == [True]
    assert followed("a", ["punctuation:no_comma"], [{}], "loose") == [True]
    assert followed("a, b", ["punctuation:no_comma"], [{}], "loose") == [False]


ROW = {
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None, "relation": None}, {"num_words": 2, "relation": "at least", "letter": None}],
}


def test_the_verifier_scores_prompts_and_instructions() -> None:
    verdict = verify("ifeval", "<think>\na, b\n</think>\none", **ROW)
    assert verdict.score == 0.0 and "number_words" in verdict.reason
    assert verdict.parts == {"punctuation:no_comma": 1.0, "length_constraints:number_words": 0.0}
    assert verify("ifeval", "one", **ROW, level="instruction").score == 0.5
    assert verify("ifeval", "one two", **ROW).score == 1.0
    assert verify(
        "ifeval", 'Sure:\n"a b"', instruction_id_list=["startend:quotation"], kwargs=[{}], mode="loose"
    ).passed
    unfinished = verify("ifeval", "<think>\none two", **ROW, level="instruction")
    assert unfinished.score == 0.0 and len(unfinished.parts) == 2
    twice = ifeval("a", instruction_id_list=["punctuation:no_comma"] * 2, kwargs=[{}, {}])
    assert list(twice.parts) == ["punctuation:no_comma", "punctuation:no_comma 2"]


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("punctuation:no_colon", {}, "no instruction 'punctuation:no_colon'"),
        ("punctuation:no_comma", {"commas": 3}, "there is no 'commas'"),
        ("length_constraints:number_words", {"num_words": 5}, "'relation' is missing"),
        ("length_constraints:number_words", {"num_words": 5, "relation": "about"}, "relation: "),
        ("length_constraints:number_words", {"num_words": "5", "relation": "at least"}, "num_words: "),
        ("keywords:existence", {"keywords": []}, "no words are given"),
        ("keywords:existence", {"keywords": "cat"}, "keywords: "),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "'ab' is not one",
        ),
        ("length_constraints:nth_paragraph_first_word", {**SECOND, "nth_paragraph": 3}, "no paragraph 3 of 2"),
    ],
)
def test_rows_that_make_no_sense_are_not_judged(name: str, args: dict, told: str) -> None:
    verdict = ifeval("a b", instruction_id_list=[name], kwargs=[args])
    assert verdict.score is None and told in verdict.reason


def test_a_list_too_short_is_not_judged_and_the_four_figures_are_means() -> None:
    assert ifeval("a", instruction_id_list=["punctuation:no_comma"], kwargs=[]).score is None
    assert ifeval("a", instruction_id_list=[], kwargs=[]).score is None
    quoted = {"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    broken = {"instruction_id_list": ["zzz"], "kwargs": [{}]}
    scores = ifeval_scores([ROW, ROW, quoted, broken], ["one two", "one", 'So:\n"a"', "a"])
    assert (scores.n, scores.instructions, scores.unjudged) == (3, 5, 1)
    assert scores.prompt_strict == pytest.approx(1 / 3) and scores.prompt_loose == pytest.approx(2 / 3)
    assert scores.instruction_strict == pytest.approx(3 / 5) and scores.instruction_loose == pytest.approx(4 / 5)
