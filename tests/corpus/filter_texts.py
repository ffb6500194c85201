"""Texts that break each published filter's rules more and more, with what datatrove says of them.

    python tests/corpus/filter_texts.py        writes tests/corpus/data/filter_texts.jsonl; needs datatrove and spacy

Made-up English with what real pages have (contractions, figures, addresses, quotes), broken in one way per text by a
growing amount, so that each rule sees texts on both sides of its threshold.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "data" / "filter_texts.jsonl"

NOUNS = (
    "harbour neighbour poet committee potter museum team river map island railway letter office boat price bridge mill "
    "garden grain lens wheel lantern candle forest summer shadow thunder paper market village story ship baker "
    "painter valley clock teacher violin mountain kitchen blanket farmer window castle engine mirror basket moon road "
    "sailor temple soldier carpet captain meadow tower kettle judge ladder hunter bottle anchor library student"
)
ADJECTIVES = (
    "old quiet well-known half-finished careful bright narrow early wooden gentle distant empty golden patient heavy "
    "hidden curious simple northern broken clever famous ordinary silver lonely modern royal rusty sudden warm young"
)
VERBS = (
    "found described opened mended carried painted followed crossed remembered sold counted cleaned watched built left "
    "wanted liked borrowed measured repaired visited explained noticed kept doesn't~need couldn't~find isn't~near "
    "hasn't~seen they've~sold it's~behind"
)
PLACES = "of|with|behind|under|near|without|before|between|across|against|beyond|inside"
EXTRAS = (
    "in spring|at 10:30 am|for $45.99|after 3.5 km|by the U.S. office|on page 1,250|at www.example.org|and/or later|"
    "with 85% of it|to be sure|that we have|of 6-inch steel|e.g. at night|as Mrs. O'Brien said|when Dr. Hale came"
)


def sentence(source: random.Random) -> str:
    nouns = [f"{source.choice(ADJECTIVES.split())} {noun}" for noun in source.sample(NOUNS.split(), 3)]
    verb = source.choice(VERBS.split()).replace("~", " ")
    text = f"{source.choice(['The', 'A', 'Every', 'My', 'No'])} {nouns[0]} {verb} the {nouns[1]}"
    text += f" {source.choice(PLACES.split('|'))} {source.choice(['a', 'the', 'his', 'their'])} {nouns[2]}"
    if source.random() < 0.4:
        text += f" {source.choice(EXTRAS.split('|'))}"
    text += source.choice([".", ".", ".", ".", ".", "!", "?"])
    return f"“{text}”" if source.random() < 0.08 else text


def sentences(source: random.Random, count: int) -> list[str]:
    return [sentence(source) for _ in range(count)]


def page(source: random.Random, lines: int = 5, each: int = 2) -> list[str]:
    return [" ".join(sentences(source, each)) for _ in range(lines)]


def mixed(source: random.Random, share: float, one: list[str], other: list[str]) -> str:
    """Lines of `one`, of which a share is exchanged for lines of `other`."""
    changed = round(share * len(one))
    lines = one[: len(one) - changed] + other[:changed]
    source.shuffle(lines)
    return "\n".join(lines)


def with_inserted(source: random.Random, text: str, per_word: float, what: str) -> str:
    words = text.split(" ")
    for _ in range(round(per_word * len(words))):
        at = source.randrange(len(words))
        words[at] = what.replace("X", words[at])
    return " ".join(words)


Broken = Callable[[random.Random, float], str]  # amount 0..1 -> text


def ways() -> dict[str, Broken]:
    """How to break a text; at 0 it is sound, at 1 beyond every threshold."""

    def short(source: random.Random, amount: float) -> str:
        words = " ".join(page(source)).split()
        return " ".join(words[: round(75 - 50 * amount)]) + "."

    def long_words(source: random.Random, amount: float) -> str:
        words = " ".join(page(source)).split()
        return " ".join(w + source.choice(NOUNS.split()) * 2 if source.random() < amount else w for w in words)

    def short_words(source: random.Random, amount: float) -> str:
        words = " ".join(page(source)).split()
        return " ".join(w[:1] if source.random() < amount else w for w in words)

    def figures(source: random.Random, amount: float) -> str:
        words = "\n".join(page(source)).split(" ")
        return " ".join(str(source.randrange(10**6)) if source.random() < amount * 0.35 else word for word in words)

    def lines_of(start: str = "", end: str = "") -> Broken:
        def broken(source: random.Random, amount: float) -> str:
            lines = [sentence(source) for _ in range(20)]
            return mixed(source, amount, lines, [f"{start}{line[:-1]}{end}" for line in page(source, 20, 1)])

        return broken

    def foreign(source: random.Random, amount: float) -> str:
        """Fewer and fewer of the eight common words: a sound page has some three."""
        words = "\n".join(page(source)).split(" ")
        common = {"the", "be", "to", "of", "and", "that", "have", "with"}
        return " ".join("une" if word in common and source.random() < amount * 1.2 else word for word in words)

    def repeated_lines(source: random.Random, amount: float) -> str:
        lines = [sentence(source) for _ in range(24)]
        return mixed(source, amount * 0.6, lines, [lines[0]] * 24)

    def short_repeated_lines(source: random.Random, amount: float) -> str:
        lines = [sentence(source) for _ in range(24)]
        return mixed(source, amount * 0.6, lines, ["Read on here."] * 24)

    def repeated_paragraphs(source: random.Random, amount: float) -> str:
        lines = [sentence(source) for _ in range(12)]
        return mixed(source, amount * 0.6, lines, [lines[0]] * 12).replace("\n", "\n\n")

    def repeated_pair(source: random.Random, amount: float) -> str:
        return with_inserted(source, "\n".join(page(source, 8)), amount * 0.25, "X golden harbours")

    def repeated_triple(source: random.Random, amount: float) -> str:
        return with_inserted(source, "\n".join(page(source, 8)), amount * 0.2, "X quite golden harbours")

    def repeated_passage(source: random.Random, amount: float) -> str:
        length = source.choice([5, 6, 8, 9, 10, 12, 14])
        passage = " ".join(" ".join(page(source)).split()[:length])
        return with_inserted(source, "\n".join(page(source, 6)), amount * 0.04, f"X {passage}")

    def repeated_run(length: int) -> Broken:
        """A passage of so many words is said again until it makes up 8 to 18 percent of the text."""

        def broken(source: random.Random, amount: float) -> str:
            passage = " ".join(source.sample(NOUNS.split(), length))
            lines = page(source, 16, 1)
            times = round((0.08 + 0.12 * amount) * len("\n".join(lines)) / len(passage)) + 1
            return "\n".join(
                f"{line[:-1]} {passage} {number}." if number < times else line for number, line in enumerate(lines)
            )

        return broken

    def few_sentences(source: random.Random, amount: float) -> str:
        text = " ".join(sentences(source, max(1, round(9 - 8 * amount))))
        return text.replace(", ", ",\n", 1) if source.random() < 0.3 else text

    def line_with(what: str) -> Broken:
        def broken(source: random.Random, amount: float) -> str:
            lines = page(source, 9, 1)
            return mixed(source, amount, lines, [f"{line} {what}." for line in page(source, 9, 1)])

        return broken

    def no_marks(source: random.Random, amount: float) -> str:
        lines = page(source, 25, 1)
        return mixed(source, 0.7 + 0.3 * amount, lines, [line.rstrip(".!?”") for line in page(source, 25, 1)])

    def short_lines(source: random.Random, amount: float) -> str:
        rows = [" ".join(sentence(source).split()[:4]) + "." for _ in range(30)]
        return mixed(source, 0.5 + 0.4 * amount, page(source, 30, 1), rows)

    def many_lines(source: random.Random, amount: float) -> str:
        words = [word.rstrip(".!?") for word in " ".join(page(source, 6)).split()]
        step = round(14 - 8 * amount)
        return "\n\n\n".join(" ".join(words[at : at + step]) + "." for at in range(0, len(words), step))

    return {
        "short": short,
        "long_words": long_words,
        "short_words": short_words,
        "figures": figures,
        "hashes": lambda s, a: with_inserted(s, "\n".join(page(s)), a * 0.3, "#X"),
        "ellipses": lambda s, a: with_inserted(s, "\n".join(page(s)), a * 0.3, "X..."),
        "bullets": lines_of(start="- ", end="."),
        "dots": lines_of(start="• ", end="."),
        "teasers": lines_of(end="..."),
        "quotes": lambda s, a: with_inserted(s, "\n".join(page(s)), a * 0.3, "“X”"),
        "foreign": foreign,
        "repeated_lines": repeated_lines,
        "short_repeated_lines": short_repeated_lines,
        "repeated_paragraphs": repeated_paragraphs,
        "repeated_pair": repeated_pair,
        "repeated_triple": repeated_triple,
        "repeated_passage": repeated_passage,
        **{f"repeated_{length}": repeated_run(length) for length in (6, 7, 8, 9, 10)},
        "few_sentences": few_sentences,
        "javascript": line_with("Please enable JavaScript"),
        "cookies": line_with("This site uses cookies"),
        "lorem": lambda s, a: line_with("lorem ipsum dolor")(s, a * 0.4),
        "brackets": lambda s, a: line_with("function run() { return 1 }")(s, a * 0.4),
        "citations": line_with("[12] and [citation needed]"),
        "no_marks": no_marks,
        "short_lines": short_lines,
        "many_lines": many_lines,
    }


def texts(amounts: int = 9) -> Iterator[tuple[str, str]]:
    """(name, text) of every way with every amount."""
    for number, (name, broken) in enumerate(ways().items()):
        for step in range(amounts):
            source = random.Random(1000 * number + step)
            yield f"{name}-{step}", broken(source, step / (amounts - 1))


def theirs() -> dict[str, Any]:
    """datatrove's filters, by the names of our steps; `c4_terminal` is C4 with its rule about line ends."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    return {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "c4_terminal": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(),
    }


def judged(text: str, filters: dict[str, Any]) -> dict[str, str | None]:
    """datatrove's reason against `text` by filter, None where it stays; each filter sees the text as it came."""
    from datatrove.data import Document

    reasons: dict[str, str | None] = {}
    for name, each in filters.items():
        result = each.filter(Document(text=text, id="x"))
        reasons[name] = None if result is True else result[1]
    return reasons


def main() -> None:
    filters = theirs()
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("w", encoding="utf-8") as file:
        for name, text in texts():
            row = {"id": name, "text": text, "datatrove": judged(text, filters)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
