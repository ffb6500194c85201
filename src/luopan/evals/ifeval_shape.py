"""The instructions of IFEval about the shape of a response: its parts, marks, beginning, end and punctuation.

Each check is `(text, *, arguments of the data set) -> followed`, with the meaning that the benchmark's own code has
(Zhou et al. 2023, arXiv:2311.07911), oddities included; the table in `ifeval` names them all.
"""

from __future__ import annotations

import json
import re

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many things in square brackets, each within a line; empty brackets count."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    """The marker is somewhere, up to case; "P.S." and "P.P.S" may have spaces after their full stops."""
    marker = postscript_marker.strip()
    forms = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(forms.get(marker, re.escape(marker.lower())), text.lower()) is not None


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with "-", or with one "*" and something after it; a rule ("---") counts."""
    starred = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashed = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(starred) + len(dashed) == num_bullets


def constrained_response(text: str) -> bool:
    """Holds "My answer is yes.", "… no." or "… maybe."; more may stand around it."""
    return any(option in text for option in OPTIONS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many *parts* or **parts**, each within a line and not blank."""
    found = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(part.strip()) for part in found) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings, the word and a number, wherever they stand."""
    return len(re.findall(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", text)) >= num_sections


def json_format(text: str) -> bool:
    """JSON throughout, in a fence of Markdown perhaps."""
    body = text.strip()
    for fence in FENCES:
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """Something in <<double angular brackets>> on one line, and not only brackets."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    """Two different responses with six stars between them; blank parts at the ends are forgiven."""
    parts = [part.strip() for part in text.split("******")]
    said = [part for part in parts if part]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """Begins with the request, up to case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    """Ends with the phrase, up to case and a double quotation mark after it."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """In straight double quotation marks from beginning to end."""
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


def no_comma(text: str) -> bool:
    """No comma of ASCII's."""
    return "," not in text


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many parts between "***"; a blank one in the middle is wrong, at the ends it does not count."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many parts between blank lines, and the nth begins with the word, up to case and quotation marks.

    Blank parts are not counted, but the nth is looked for among all.
    """
    if not 0 < nth_paragraph <= num_paragraphs:
        raise ValueError(f"there is no paragraph {nth_paragraph} of {num_paragraphs}")
    parts = [part.strip() for part in text.split("\n\n")]
    count = sum(map(bool, parts))
    if nth_paragraph > count or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()
