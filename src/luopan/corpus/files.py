"""Which files a path means: one file, everything below a folder, or a glob; in an order that never changes."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from luopan.errors import DataError

SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
WILD = "*?["


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and its name below the path that the user gave (the same wherever that path lies)."""

    path: Path
    name: str
    suffix: str  # one of SUFFIXES, or "" if it is none of them


def find_files(path: str) -> list[Found]:
    """The files that `path` means, sorted by name; hidden ones are left out. DataError if there is nothing there.

    Files of other kinds are returned with an empty suffix, so that the caller can say that they were left out.
    """
    given = os.path.expanduser(path)
    if os.path.isdir(given):
        found = [below(name, Path(given)) for name in walk(Path(given))]
    elif os.path.exists(given):
        found = [below(Path(given), Path(given).parent)]
    elif any(character in path for character in WILD):
        found = from_glob(given)
    else:
        raise DataError("no such file or folder", where=path, hint=near(Path(given)))
    if not any(file.suffix for file in found):
        others = ", ".join(sorted({file.path.suffix or file.path.name for file in found})[:8])
        raise DataError(
            f"no text to read here{f': found only {others}' if others else ''}",
            where=path,
            hint=f"Luopan reads {' '.join(SUFFIXES)}; give such a file, a folder with some, or a glob in quotes.",
        )
    return sorted(found, key=lambda file: file.name)


def from_glob(pattern: str) -> list[Found]:
    """Files that match, and everything below folders that match; named from the pattern's fixed folder on."""
    fixed = Path(*takewhile(lambda part: not set(part) & set(WILD), Path(pattern).parts[:-1]))
    matches: dict[Path, None] = {}
    for match in glob.iglob(pattern, recursive=True):
        for path in walk(Path(match)) if os.path.isdir(match) else [Path(match)]:
            matches[path] = None
    return [below(path, fixed) for path in matches]


def walk(folder: Path) -> Iterator[Path]:
    """All files below `folder` but hidden ones; links to folders are not followed, so there is no circle."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(root, name)


def below(path: Path, folder: Path) -> Found:
    try:
        name = path.relative_to(folder).as_posix()
    except ValueError:
        name = path.as_posix()
    lower = path.name.lower()
    suffix = max((suffix for suffix in SUFFIXES if lower.endswith(suffix)), key=len, default="")
    return Found(path, name, suffix)


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
