"""The step `c4`: C4's rules (Raffel et al. 2020, arXiv:1910.10683, section 2.2), in FineWeb's choice of them.

Lines that are no prose are dropped from a document; a document goes if too little is left, or if a line that would stay
holds a curly bracket or "lorem ipsum". The order of the rules is that of C4's published program: a line that one rule
drops is not seen by the next. A line of an unspaced script has a word for every two characters, as in `words.py`.

Unlike that program's, a citation's removal leaves no space at the line's end.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.filter_config import C4Config
from luopan.corpus.sentences import CLOSING, count_sentences, terminal_marks
from luopan.corpus.verdict import Finding, above, below
from luopan.corpus.words import CHARACTERS_PER_WORD, unspaced_pattern

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
SIGNS = (b"lorem ipsum", b"javascript", b"{", b"terms of use", b"privacy policy", b"cookie")  # one is in all of these
KELVIN = "\u212a"  # the one sign beyond ASCII whose small form is an ASCII letter
ASCII_MARKS = (".", "?", "!", '"', "'")


def c4(batch: DocumentBatch, config: C4Config) -> Outcome:
    """The documents without the lines that the rules drop; counts those (`lines_…`), rejects documents."""
    cleaned = [clean(text, config) for text in batch.texts]
    counts: Counter[str] = Counter()
    rejected, stays = [], []
    for row, result in enumerate(cleaned):
        stays.append(result.finding is None)
        if result.finding is None:
            counts.update(result.dropped)
        else:
            finding = result.finding
            rejected.append(rejection(batch, row, "c4", finding.rule, value=finding.value, threshold=finding.threshold))
    # A rejected document keeps its text as it came.
    batch = batch.keep(stays).with_texts([result.text for result in cleaned if result.finding is None])
    return Outcome(batch, rejected, dict(sorted(counts.items())))


@dataclass(frozen=True)
class Cleaned:
    """What is left of a text, how many lines each rule dropped, and why the document goes, if it does."""

    text: str
    dropped: dict[str, int]
    finding: Finding | None = None


def clean(text: str, config: C4Config) -> Cleaned:
    """Pass a text's lines through the rules."""
    looks = look(text, config)
    kept: list[str] = []
    dropped: Counter[str] = Counter()
    ipsum = brackets = 0
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            if config.keep_blank_lines and kept and kept[-1]:
                kept.append("")
            continue
        rule = shape_rule(line, config, looks)
        if rule is None and looks.content:
            low = line.lower()
            ipsum += "lorem ipsum" in low
            if config.drop_javascript_lines and "javascript" in low:
                rule = "javascript"
            else:
                brackets += "{" in line
                if config.drop_policy_lines and any(phrase in low for phrase in POLICIES):
                    rule = "policy"
        if rule is None:
            kept.append(without_citations(line) if looks.citations else line)
        else:
            dropped[f"lines_{rule}"] += 1
    finding = (
        above("max_lorem_ipsum", ipsum, config.max_lorem_ipsum)
        or above("max_curly_brackets", brackets, config.max_curly_brackets)
        or too_few_sentences(kept, config)
    )
    return Cleaned("\n".join(kept).strip(), dict(dropped), finding)


@dataclass(frozen=True)
class Looks:
    """What a text holds somewhere, so that its lines need not be searched one by one for what is nowhere."""

    citations: bool
    content: bool  # a phrase or a bracket that the rules about content know


def look(text: str, config: C4Config) -> Looks:
    low = text.encode("utf-8", "surrogatepass").lower()  # a third of the time of text.lower()
    return Looks(
        citations=config.remove_citations and "[" in text,
        content=KELVIN in text or any(sign in low for sign in SIGNS),
    )


def shape_rule(line: str, config: C4Config, looks: Looks) -> str | None:
    """Which rule about its shape a line breaks: a word too long, no end mark, too few words."""
    longest, least = config.max_word_length, config.min_words_per_line
    if longest is not None and len(line) > longest and longest_word(line) > longest:
        return "max_word_length"
    if config.terminal_punctuation is not None:
        bare = without_citations(line) if looks.citations else line
        if not terminated(bare, config.terminal_punctuation == "ascii"):
            return "terminal_punctuation"
    if least is not None and len(line.split(None, least)) < least and (line.isascii() or words_in(line) < least):
        return "min_words_per_line"
    return None


def longest_word(line: str) -> int:
    """Characters of the longest word between spaces, or characters of unspaced scripts."""
    longest = max(map(len, line.split()))
    if line.isascii() or not unspaced_pattern().search(line):
        return longest
    return max(len(part) for word in line.split() for part in unspaced_pattern().split(word))


def words_in(line: str) -> float:
    """Words between spaces, and one for two characters of an unspaced script."""
    unspaced = len(unspaced_pattern().findall(line))
    spaced = unspaced_pattern().sub(" ", line).split()
    return sum(any(map(str.isalnum, word)) for word in spaced) + unspaced / CHARACTERS_PER_WORD


def terminated(line: str, ascii: bool) -> bool:
    """The line ends in a mark that ends a sentence, or in closing quotes or brackets behind one; not in an ellipsis.

    With `ascii` it ends in one of C4's five marks.
    """
    if ascii:
        return line.endswith(ASCII_MARKS) and not line.endswith("...")
    bare = line.rstrip(CLOSING)
    return bare[-1:] in terminal_marks() and not bare.endswith("...")


def without_citations(line: str) -> str:
    return CITATION.sub("", line).rstrip()


def too_few_sentences(lines: list[str], config: C4Config) -> Finding | None:
    """Each line is one sentence at least, so long documents are not looked at."""
    least = config.min_sentences
    if least is None or (len(lines) >= least and all(lines[:least])):
        return None
    count = 0
    for line in filter(None, lines):
        count += count_sentences(line, least - count)
        if count >= least:
            return None
    return below("min_sentences", count, least)
