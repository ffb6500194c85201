"""Whole or not at all: atomic files, folder replacement, and what a full or read-only disk turns into."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from luopan.artifacts import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    ensure_free_space,
    files,
    mend_os_errors,
    recover_folder,
    replace_folder,
    sha256_file,
    stable_hash,
)
from luopan.errors import ArtifactError, DiskFullError


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    atomic_write_json(path, {"b": Path("x/y"), "text": "羅盤"})
    atomic_write_json(path, {"b": 2})
    assert json.loads(path.read_text()) == {"b": 2}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError) as caught:
        atomic_write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert str(path) in str(caught.value) and caught.value.hint


def test_sha256_is_that_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write_bytes(path, b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class Model(BaseModel):
    rate: float
    place: Path


@dataclass
class Point:
    x: int


def test_stable_hash_ignores_order_and_sees_every_change() -> None:
    assert stable_hash({"a": 1, "b": {1, 2, 3}}) == stable_hash({"b": {3, 2, 1}, "a": 1})
    assert stable_hash((1, 2)) == stable_hash([1, 2])
    assert stable_hash([1, 2]) != stable_hash([2, 1])
    assert stable_hash(1) != stable_hash(1.0) != stable_hash("1.0")
    assert stable_hash(True) != stable_hash(1)
    assert stable_hash(Model(rate=1e-3, place=Path("a/b"))) == stable_hash({"rate": 0.001, "place": "a/b"})
    assert stable_hash(Point(1)) == stable_hash({"x": 1})
    assert stable_hash(np.float64(1.5)) == stable_hash(1.5) == stable_hash(np.float32(1.5))
    with pytest.raises(TypeError, match="object"):
        stable_hash({"a": object()})


def test_stable_hash_is_the_same_in_another_process() -> None:
    value = {"name": "羅盤", "set": {"x", "y", "z"}, "n": [1, 2.5, None, True]}
    code = "from luopan.artifacts import stable_hash; print(stable_hash(" + repr(value) + "))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == stable_hash(value)


def folder_with(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "a.txt").write_text(text)
    return path


@pytest.mark.parametrize("swap", ["atomic", "two renames"])
def test_replace_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str) -> None:
    if swap == "two renames":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    final = tmp_path / "run" / "stage"
    for text in ("one", "two", "three"):
        replace_folder(folder_with(tmp_path / "run" / f"stage.partial-{text}", text), final)
        assert (final / "a.txt").read_text() == text
    assert [p.name for p in final.parent.iterdir()] == ["stage"]


def test_exchange_is_available_here(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux's")
    one, other = folder_with(tmp_path / "1", "one"), folder_with(tmp_path / "2", "two")
    assert files.exchange(one, other)
    assert (one / "a.txt").read_text() == "two" and (other / "a.txt").read_text() == "one"


def test_a_failed_second_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    final = folder_with(tmp_path / "stage", "old")
    partial = folder_with(tmp_path / "stage.partial", "new")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(source) == partial:
            raise OSError(errno.EROFS, "Read-only file system")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(ArtifactError, match="cannot be written"):
        replace_folder(partial, final)
    assert (final / "a.txt").read_text() == "old"


def test_recover_folder_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    final = tmp_path / "stage"
    folder_with(files.aside(final), "old")
    assert recover_folder(final)
    assert (final / "a.txt").read_text() == "old"
    assert not recover_folder(final)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFullError),
        (RuntimeError("I/O error: No space left on device (os error 28)"), DiskFullError),
        (PermissionError(errno.EACCES, "Permission denied"), ArtifactError),
        (OSError(errno.EROFS, "Read-only file system"), ArtifactError),
    ],
)
def test_disk_errors_become_the_users(tmp_path: Path, error: Exception, kind: type[ArtifactError]) -> None:
    with pytest.raises(kind) as caught, mend_os_errors(tmp_path / "x"):
        raise error
    assert type(caught.value) is kind and str(tmp_path) in str(caught.value) and caught.value.hint


def test_other_errors_pass_through(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "x"), ValueError("y")):
        with pytest.raises(type(error)), mend_os_errors(tmp_path):
            raise error


def test_ensure_free_space(tmp_path: Path) -> None:
    ensure_free_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(DiskFullError, match="MiB are free"):
        ensure_free_space(tmp_path / "not" / "there" / "yet", 2**60)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ArtifactError, match="cannot be written"):
            atomic_write_text(tmp_path / "a", "x")
    finally:
        tmp_path.chmod(0o700)


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")
    code = (
        "import os, signal, sys, pathlib; from luopan.artifacts import atomic_write_text\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_write_text(pathlib.Path(sys.argv[1]), 'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
