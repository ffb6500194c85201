"""Files and folders that are written whole or not at all, and the errors a full or read-only disk gives.

Every room that leaves something on disk goes through here: write to a temporary sibling, flush it to the disk,
rename. A process that is killed at any moment leaves either the old file or the new one, never half of one.

Limits: durability is what `fsync` and `rename` give on the local file system; a network file system may give less.
The swap of two folders is one atomic step on Linux (`renameat2`); elsewhere it is two renames, and `recover_folder`
mends what a kill between them leaves behind.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from luopan.errors import ArtifactError, DiskFullError, LuopanError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
AT_FDCWD = -100  # renameat2: paths are relative to the working directory
RENAME_EXCHANGE = 2


@contextmanager
def mend_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into `DiskFullError` and a read-only place into `ArtifactError`, both with what to do.

    Also sees through libraries that wrap the system's error in one of their own (safetensors, torch's writers).
    """
    try:
        yield
    except LuopanError:
        raise
    except Exception as error:
        mended = mended_os_error(error, Path(path))
        if mended is None:
            raise
        raise mended from error


def mended_os_error(error: BaseException, path: Path) -> ArtifactError | None:
    """The user's error for what the disk did, or None where `error` is of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in FULL or "No space left on device" in text or "Disk quota exceeded" in text:
        return DiskFullError(
            f"the disk is full while writing ({free_text(path)})",
            where=path,
            hint="Free some space or choose another place with --runs DIR; what was saved before is intact.",
        )
    if number in FORBIDDEN or "Read-only file system" in text:
        return ArtifactError(
            f"this place cannot be written to ({text})",
            where=path,
            hint="Give yourself the right to write there (chmod u+w), or choose another place with --runs DIR.",
        )
    return None


def free_text(path: Path) -> str:
    """How much room the file system of `path` has, in words for an error message."""
    try:
        return f"{shutil.disk_usage(nearest_existing(path)).free / 2**20:.0f} MiB free"
    except OSError:
        return "free space unknown"


def nearest_existing(path: Path) -> Path:
    """`path` or the nearest of its parents that exists."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def ensure_free_space(path: Path, bytes: int) -> None:
    """Raise `DiskFullError` unless the file system that holds `path` (which need not exist yet) has `bytes` free."""
    free = shutil.disk_usage(nearest_existing(Path(path))).free
    if free < bytes:
        raise DiskFullError(
            f"needs {bytes / 2**20:.0f} MiB, only {free / 2**20:.0f} MiB are free",
            where=path,
            hint="Free some space or choose another place with --runs DIR.",
        )


def fsync_path(path: Path) -> None:
    """Flush a file's contents, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems refuse fsync on a folder; the rename is then as durable as they make it.
        if not (path.is_dir() and error.errno in {errno.EINVAL, errno.EBADF}):
            raise
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder under `folder`, then `folder` itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                fsync_path(path)
        fsync_path(Path(root))


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with mend_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        fsync_path(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_bytes` of indented JSON (pydantic models, dataclasses and paths allowed), newline at the end."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=2)
    atomic_write_text(path, text + "\n")


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; reads in pieces, so the file may be larger than memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stable_hash(value: Any) -> str:
    """SHA-256 (hexadecimal) of a plain value: the same on every machine, Python version and run.

    Mappings are hashed without regard to the order of their keys, sets without regard to order; tuples equal lists.
    Raises TypeError on objects that have no plain form.
    """
    text = json.dumps(plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: models and dataclasses as mappings, paths as text, sets as sorted lists."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else json.dumps(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of numpy or torch
        return value.item()
    raise TypeError(f"{type(value).__name__} has no plain form: {value!r}")


def replace_folder(partial: Path, final: Path) -> None:
    """Make the finished folder `partial` the folder `final`; an older `final` goes only when the new one is in place.

    Everything in `partial` is flushed to the disk first. Both must be on one file system.
    """
    partial, final = Path(partial), Path(final)
    with mend_os_errors(final):
        fsync_tree(partial)
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(partial, final)
        elif exchange(partial, final):
            fsync_path(final.parent)
            shutil.rmtree(partial)  # holds the old one now
        else:
            swap_by_two_renames(partial, final)
        fsync_path(final.parent)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one atomic step; False where the system cannot (then nothing has changed)."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def swap_by_two_renames(partial: Path, final: Path) -> None:
    """Replace `final` by `partial` where no atomic swap exists; the old one is put back if the second rename fails."""
    old = aside(final)
    if old.exists():
        shutil.rmtree(old)
    os.rename(final, old)
    try:
        os.rename(partial, final)
    except BaseException:
        os.rename(old, final)
        raise
    fsync_path(final.parent)
    shutil.rmtree(old)


def recover_folder(final: Path) -> bool:
    """Put back the folder that a kill between the two renames of `swap_by_two_renames` left aside; True if it did."""
    old = aside(Path(final))
    if not old.exists():
        return False
    with mend_os_errors(Path(final)):
        if Path(final).exists():
            shutil.rmtree(old)
            return False
        os.rename(old, final)
        return True


def aside(final: Path) -> Path:
    """Where the old folder waits while the new one takes its place."""
    return final.with_name(f".{final.name}.old")
