"""Reading inside the runs folder, and nowhere else.

Names come out of requests. Each is opened relative to the folder before it (`openat`), links are not followed, and only
folders and plain files are opened: so no name, and nothing that changes between a check and a read, leads out of the
folder. The runs folder itself may be a link, because the user named it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LONGEST_NAME = 255


class NotThere(Exception):
    """There is no such file or folder, or it is not one that may be read."""


@dataclass(frozen=True)
class Entry:
    """One name in a folder. `modified` is seconds since 1970."""

    name: str
    is_folder: bool
    bytes: int
    modified: float


def sound_name(name: str) -> bool:
    """One component of a path: no separators, no dots in front (which hides locks and notes as well), no controls."""
    return 0 < len(name) <= LONGEST_NAME and name[0] != "." and not any(c in "/\\" or ord(c) < 32 for c in name)


@contextmanager
def open_folder(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of the folder `parts` below `root`. Raises NotThere."""
    if not all(sound_name(part) for part in parts):
        raise NotThere("/".join(parts))
    try:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NotThere(str(root)) from error
    try:
        for part in parts:
            try:
                following = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            except (OSError, ValueError) as error:
                raise NotThere(part) from error
            os.close(here)
            here = following
        yield here
    finally:
        os.close(here)


@contextmanager
def open_file(root: Path, parts: Sequence[str], *, hidden: bool = False) -> Iterator[BinaryIO]:
    """A plain file below `root`, open for reading. `hidden`: the name is ours and may begin with a dot."""
    *folders, name = parts
    if not hidden and not sound_name(name):
        raise NotThere(name)
    with open_folder(root, folders) as folder:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except (OSError, ValueError) as error:
            raise NotThere(name) from error
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotThere(name)
            yield file


def read_text(root: Path, parts: Sequence[str], limit_bytes: int, *, hidden: bool = False) -> tuple[str, bool]:
    """A file's text, at most `limit_bytes` of it, and whether it was cut. What is no UTF-8 shows as U+FFFD."""
    with open_file(root, parts, hidden=hidden) as file:
        data = file.read(limit_bytes + 1)
    return data[:limit_bytes].decode("utf-8", errors="replace"), len(data) > limit_bytes


def list_folder(root: Path, parts: Sequence[str], limit: int = 2000) -> list[Entry]:
    """The folders and plain files in a folder, by name; links, hidden names and all else left out. Raises NotThere."""
    found: list[Entry] = []
    with open_folder(root, parts) as folder, os.scandir(folder) as entries:
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since
            is_folder = stat.S_ISDIR(facts.st_mode)
            if (is_folder or stat.S_ISREG(facts.st_mode)) and sound_name(entry.name):
                found.append(Entry(entry.name, is_folder, facts.st_size, facts.st_mtime))
            if len(found) >= limit:
                break
    return sorted(found, key=lambda entry: entry.name)
