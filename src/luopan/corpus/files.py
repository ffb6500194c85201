"""Which files a path means: one file, everything below a folder, or a glob; in an order that never changes."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from luopan.errors import DataError

FORMATS = (".txt", ".md", ".html", ".htm", ".jsonl", ".json", ".csv", ".tsv", ".warc", ".wet")
COMPRESSIONS = (".gz", ".zst")
SUFFIXES = (*FORMATS, *(f + c for f in FORMATS for c in COMPRESSIONS), ".parquet")
READS = f"{' '.join(FORMATS)}, each also as {' or '.join(COMPRESSIONS)}, and .parquet"
WILD = "*?["


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and its name below the path that the user gave (the same wherever that path lies)."""

    path: Path  # absolute, so that it means the same in another process
    name: str
    suffix: str  # one of SUFFIXES (of a code source: one of the suffixes asked for), or "" if it is none of them
    shown: str  # the path as the user would open it
    size: int  # in bytes; 0 if it was gone already

    @property
    def format(self) -> str:
        """The suffix without the compression: one of FORMATS, ".parquet" or ""."""
        return next((self.suffix.removesuffix(c) for c in COMPRESSIONS if self.suffix.endswith(c)), self.suffix)

    @property
    def compressed(self) -> bool:
        return self.suffix.endswith(COMPRESSIONS)


def find_files(path: str) -> list[Found]:
    """The files that `path` means, sorted by name; hidden ones are left out. DataError if there is nothing there.

    Files of other kinds are returned with an empty suffix, so that the caller can say that they were left out.
    """
    found = list_files(path, SUFFIXES)
    refuse_own_corpus(path, found)
    if not any(file.suffix for file in found):
        others = ", ".join(sorted({file.path.suffix or file.path.name for file in found})[:8])
        raise DataError(
            f"no text to read here{f': found only {others}' if others else ''}",
            where=path,
            hint=f"Luopan reads {READS}; give such a file, a folder, or a glob in quotes.",
        )
    return found


def refuse_own_corpus(path: str, found: Sequence[Found]) -> None:
    """DataError where a corpus that `curate` wrote would be read whole, held-out and rejected documents included."""
    names = {file.name for file in found}
    for name in names:
        folder, _, last = name.rpartition("/")
        beside = f"{folder}/funnel.json" if folder else "funnel.json"
        if last == "card.json" and beside in names:
            corpus = os.path.join(path, folder) if folder else path.rstrip("/")
            raise DataError(
                "is a corpus that luopan made: its held-out and rejected documents would be read with the rest",
                where=corpus,
                hint=f"Give {corpus}/train, or the sources that it was made of.",
            )


def find_code(path: str, suffixes: Sequence[str], exclude: Sequence[str]) -> list[Found]:
    """The files with one of `suffixes`, sorted by name, without those that `exclude` names. DataError if none."""
    wanted = [
        file
        for file in list_files(path, suffixes)
        if file.suffix and not any(fnmatch.fnmatch(part, p) for part in file.name.split("/") for p in exclude)
    ]
    if not wanted:
        raise DataError(
            f"no file ends in {' or '.join(suffixes)} here", where=path, hint="Say which files are meant with suffixes."
        )
    return wanted


def list_files(path: str, suffixes: Iterable[str]) -> list[Found]:
    """All files that `path` means, sorted by name. DataError if there is no such path."""
    given = os.path.expanduser(path)
    if os.path.isdir(given):
        found = [below(name, Path(given), suffixes) for name in walk(Path(given))]
    elif os.path.exists(given):
        found = [below(Path(given), Path(given).parent, suffixes)]
    elif any(character in path for character in WILD):
        found = from_glob(given, suffixes)
    else:
        raise DataError("no such file or folder", where=path, hint=near(Path(given)))
    return sorted(found, key=lambda file: file.name)


def from_glob(pattern: str, suffixes: Iterable[str]) -> list[Found]:
    """Files that match, and everything below folders that match; named from the pattern's fixed folder on."""
    fixed = Path(*takewhile(lambda part: not set(part) & set(WILD), Path(pattern).parts[:-1]))
    matches: dict[Path, None] = {}
    for match in glob.iglob(pattern, recursive=True):
        for path in walk(Path(match)) if os.path.isdir(match) else [Path(match)]:
            matches[path] = None
    return [below(path, fixed, suffixes) for path in matches]


def walk(folder: Path) -> Iterator[Path]:
    """All files below `folder` but hidden ones; links to folders are not followed, so there is no circle."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(root, name)


def below(path: Path, folder: Path, suffixes: Iterable[str]) -> Found:
    """`path` named from `folder` on."""
    try:
        name = path.relative_to(folder).as_posix()
    except ValueError:
        name = path.as_posix()
    lower = path.name.lower()
    suffix = max((suffix for suffix in suffixes if lower.endswith(suffix)), key=len, default="")
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # a broken link, or gone since it was listed: said when it is read
    return Found(path.absolute(), printable(name), suffix, printable(str(path)), size)


def printable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which Linux allows in names, are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def near(path: Path) -> str:
    """A hint that names what is there instead."""
    folder = path.absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if not names:
        return f"{folder} is empty."
    if close := difflib.get_close_matches(path.name, names, n=1):
        return f"Did you mean {folder / close[0]}?"
    return f"{folder} holds: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
