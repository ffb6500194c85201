r"""Where in a worked answer the final answer stands.

In this order: the last `\boxed{…}`, the last `#### …` (GSM8K), the last "the answer is …" or "Answer: …", and, if
nothing is marked, the whole text where it is a single line that states one thing. Of several marks of a kind the last
counts: a model may correct itself, and cannot list guesses, for the others are not looked at.

Limits: English marks only ("the answer is"), besides the box and the hashes.
"""

from __future__ import annotations

import re
from typing import Literal

Where = Literal["final", "boxed", "last"]

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_STATED = re.compile(r"\banswer(?:\s+(?:is|are|would be)\b|\s*=|\s*\**\s*:)\s*\**\s*:?\s*(?=([^\n]*))", re.IGNORECASE)
_ASIDE = re.compile(r"[.;!?]\s+|\s*[,;]?\s+(?:because|since|so that|as|which|where|not|and not|rather)\b|\.\s*$")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")
_FORMULA = re.compile(r"\$\$?([^$]+)\$")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_FUNCTIONS = "sin cos tan cot sec csc log ln exp sqrt pi max min gcd lcm arcsin arccos arctan mod det"


def final_answer(text: str, where: Where = "final") -> str | None:
    """The final answer as it is written, without its mark; None if there is none. `last` gives the text's last line
    where nothing is marked."""
    if (boxed := last_boxed(text)) is not None or where == "boxed":
        return boxed or None
    for marks in (_HASHES, _STATED):
        if found := [one for one in marks.findall(text) if one.strip(" *$")]:
            return _without_aside(found[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if where == "last":
        return lines[-1]
    alone = lines[0].strip("* ")
    several = has_prose(alone) and len(_NUMBER.findall(alone)) > 1
    return None if len(lines) > 1 or several or _BOX.search(alone) else _bare(alone)


def last_boxed(text: str) -> str | None:
    """What is in the last box whose braces close."""
    for start in reversed([match.end() for match in _BOX.finditer(text)]):
        depth = 1
        for at in range(start, len(text)):
            depth += (text[at] == "{") - (text[at] == "}") if text[at - 1] != "\\" else 0
            if depth == 0:
                return text[start:at].strip()
    return None


def has_prose(text: str) -> bool:
    r"""Words that are no command (`\frac`), no function's name and not in a `\text{…}`."""
    functions = _FUNCTIONS.split()
    plain = re.sub(r"\\(?:text|mathrm|mbox|textbf|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\s*\{[^{}]*\}", " ", text)
    return any(word.lower() not in functions for word in _WORD.findall(plain))


def _without_aside(stated: str) -> str:
    """The formula it begins with, or up to the end of the sentence or to an aside: "5, not 6", "5 because …"."""
    if formula := _FORMULA.match(stated):
        return formula[1].strip()
    if "$" not in stated and "\\" not in stated and (aside := _ASIDE.search(stated)):
        stated = stated[: aside.start()]
    return _bare(stated)


def _bare(stated: str) -> str:
    """Without stars and a full stop at the ends, and without the dollars or brackets around a formula."""
    stated = stated.strip(" *\t").rstrip(".").strip(" *\t")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inside = stated[len(opening) : len(stated) - len(closing)]
        if stated.startswith(opening) and stated.endswith(closing) and len(inside) > 0 and opening not in inside:
            return inside.strip()
    return stated
