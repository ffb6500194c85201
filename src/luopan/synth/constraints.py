"""Instructions that a program can check, in words: the types of IFEval with drawn arguments.

`draw` gives some that can be followed together. Left out are those that need another text or tell little of a chat
(`repeat_prompt`, `response_language`, `constrained_response`, `two_responses`, `letter_frequency`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

KEYWORDS = (
    "water", "light", "morning", "reason", "example", "simple", "journey", "balance", "change", "garden", "question",
    "memory", "paper", "bridge", "winter", "music", "family", "number", "market", "window",
)  # fmt: skip
ENDINGS = ("That is all.", "I hope this helps.", "Let me know what you think.", "Good luck!", "Any other questions?")
SECTIONS = ("Section", "Part", "Chapter")


@dataclass(frozen=True)
class Constraint:
    """An instruction of IFEval: its type, its arguments, and how it is said."""

    id: str
    kwargs: dict[str, Any]
    text: str


Make = Callable[[Random], tuple[dict[str, Any], str]]


def _existence(draw: Random) -> tuple[dict[str, Any], str]:
    words = draw.sample(KEYWORDS, 2)
    return {"keywords": words}, f"Use the words {words[0]} and {words[1]}."


def _frequency(draw: Random) -> tuple[dict[str, Any], str]:
    word, count = draw.choice(KEYWORDS), draw.randint(2, 4)
    said = {"keyword": word, "frequency": count, "relation": "at least"}
    return said, f"Use the word {word} at least {count} times."


def _forbidden(draw: Random) -> tuple[dict[str, Any], str]:
    words = draw.sample(KEYWORDS, 2)
    return {"forbidden_words": words}, f"Use neither the word {words[0]} nor the word {words[1]}."


def _sentences(draw: Random) -> tuple[dict[str, Any], str]:
    count = draw.randint(3, 8)
    return {"num_sentences": count, "relation": "less than"}, f"Use fewer than {count} sentences."


def _words(draw: Random) -> tuple[dict[str, Any], str]:
    if draw.random() < 0.5:
        count = 10 * draw.randint(4, 15)
        return {"num_words": count, "relation": "less than"}, f"Use fewer than {count} words."
    count = 10 * draw.randint(3, 15)
    return {"num_words": count, "relation": "at least"}, f"Use at least {count} words."


def _paragraphs(draw: Random) -> tuple[dict[str, Any], str]:
    count = draw.randint(2, 4)
    return {"num_paragraphs": count}, f"Write exactly {count} paragraphs, with *** between them."


def _nth_word(draw: Random) -> tuple[dict[str, Any], str]:
    count, word = draw.randint(2, 4), draw.choice(KEYWORDS)
    nth = draw.randint(1, count)
    said = {"num_paragraphs": count, "nth_paragraph": nth, "first_word": word}
    text = f"Write exactly {count} paragraphs with an empty line between them, and begin paragraph {nth} with {word}."
    return said, text


def _placeholders(draw: Random) -> tuple[dict[str, Any], str]:
    count = draw.randint(1, 4)
    return {"num_placeholders": count}, f"Leave at least {count} placeholders in square brackets, such as [name]."


def _postscript(draw: Random) -> tuple[dict[str, Any], str]:
    mark = draw.choice(("P.S.", "P.P.S"))
    return {"postscript_marker": mark}, f"Add a postscript at the end that begins with {mark}"


def _bullets(draw: Random) -> tuple[dict[str, Any], str]:
    count = draw.randint(2, 6)
    return {"num_bullets": count}, f"Use exactly {count} bullet points in Markdown, such as: * a point."


def _highlights(draw: Random) -> tuple[dict[str, Any], str]:
    count = draw.randint(1, 4)
    return {"num_highlights": count}, f"Highlight at least {count} parts with Markdown, as in *highlighted part*."


def _sections(draw: Random) -> tuple[dict[str, Any], str]:
    count, word = draw.randint(2, 4), draw.choice(SECTIONS)
    said = {"section_spliter": word, "num_sections": count}
    return said, f"Divide the answer into {count} sections, headed {word} 1, {word} 2 and so on."


def _json(draw: Random) -> tuple[dict[str, Any], str]:
    return {}, "The whole answer must be JSON; it may stand in a Markdown code block."


def _title(draw: Random) -> tuple[dict[str, Any], str]:
    return {}, "Give the answer a title in double angular brackets, such as <<a title>>."


def _end(draw: Random) -> tuple[dict[str, Any], str]:
    phrase = draw.choice(ENDINGS)
    return {"end_phrase": phrase}, f'End with exactly these words and nothing after them: "{phrase}"'


def _quotation(draw: Random) -> tuple[dict[str, Any], str]:
    return {}, "Put the whole answer in double quotation marks."


def _capital_words(draw: Random) -> tuple[dict[str, Any], str]:
    count = draw.randint(2, 6)
    said = {"capital_frequency": count, "capital_relation": "at least"}
    return said, f"Write at least {count} words in capital letters."


def _capitals(draw: Random) -> tuple[dict[str, Any], str]:
    return {}, "Answer in English and in capital letters only."


def _lowercase(draw: Random) -> tuple[dict[str, Any], str]:
    return {}, "Answer in English and in lower case letters only."


def _no_comma(draw: Random) -> tuple[dict[str, Any], str]:
    return {}, "Do not use any commas."


MAKERS: dict[str, Make] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _nth_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
ALONE = {"detectable_format:json_format"}
APART = (
    # Two that cannot both be followed, or not surely; two of one group (before the colon) never stand together.
    {"detectable_content:postscript", "startend:end_checker"},
    {"detectable_content:postscript", "change_case:english_lowercase"},
    {"startend:end_checker", "change_case:english_capital"},
    {"detectable_format:multiple_sections", "change_case:english_capital"},
    {"detectable_format:multiple_sections", "change_case:english_lowercase"},
    {"length_constraints:number_paragraphs", "detectable_format:number_bullet_lists"},
    {"length_constraints:number_paragraphs", "detectable_format:number_highlighted_sections"},
    {"length_constraints:number_sentences", "keywords:frequency"},
    {"length_constraints:number_sentences", "detectable_format:number_bullet_lists"},
)  # fmt: skip


def draw(random: Random, count: int) -> list[Constraint]:
    """At most `count` instructions that go together."""
    found: list[Constraint] = []
    names = list(MAKERS)
    random.shuffle(names)
    for name in names:
        if len(found) == count:
            break
        if all(together(name, one.id) for one in found):
            kwargs, text = MAKERS[name](random)
            found.append(Constraint(name, kwargs, text))
    return found


def together(one: str, other: str) -> bool:
    """Whether two types can be asked for at once."""
    same_group = one.partition(":")[0] == other.partition(":")[0]
    return not same_group and not ALONE & {one, other} and {one, other} not in APART
