"""Uploads by a command and to a stand-in for the Hub: verified before anything goes, never a reason to stop."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from luopan.artifacts import read_manifest, verify
from luopan.train import checkpoint as checkpoints
from luopan.train import upload
from luopan.train.config import TrainConfig
from luopan.train.saver import Saver
from luopan.train.upload import HubDestination, Uploader, UploadFailed, git_blob_id

COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"
COMPARE = (
    "import filecmp, os, sys; names = os.listdir(sys.argv[1]); "
    "sys.exit(filecmp.cmpfiles(sys.argv[1], sys.argv[2], names, shallow=False)[0] != names)"
)


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1e-2, "max_steps": 100, "save_steps": 1, "save_total_limit": 1, **changes})


def by_command(there: Path, copy: str = COPY, compare: str = COMPARE) -> dict:
    words = ["{folder}", f"{there}/{{name}}"]
    return {
        "upload_command": [sys.executable, "-c", copy, *words],
        "upload_verify_command": [sys.executable, "-c", compare, *words],
    }


def tensors(value: float = 0.0) -> dict:
    return {"model": {"a": torch.full((100,), value)}}


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uploader.__init__, "__defaults__", (0.02,))


def test_each_checkpoint_is_copied_checked_and_only_then_removed(tmp_path: Path) -> None:
    here, there, notes = tmp_path / "here", tmp_path / "there", []
    saver = Saver(here, config(**by_command(there)), "me", notes.append)
    for step in (1, 2, 3):
        saver.save(step, tensors(step), {})
    saver.close(patience=30)
    assert checkpoints.steps_saved(there) == [1, 2, 3] and checkpoints.steps_saved(here) == [3]
    for step in (1, 2, 3):
        verify(checkpoints.checkpoint_path(there, step))
    assert not notes


def test_a_copy_that_is_not_whole_keeps_the_checkpoint_here_and_is_made_again(tmp_path: Path) -> None:
    here, there, notes = tmp_path / "here", tmp_path / "there", []
    mended = tmp_path / "mended"
    truncating = (
        f"{COPY}; import pathlib\n"
        f"if not pathlib.Path({str(mended)!r}).exists(): pathlib.Path(sys.argv[2], 'state.json').write_text('')"
    )
    saver = Saver(here, config(**by_command(there, copy=truncating)), "me", notes.append)
    saver.save(1, tensors(1), {}, final=True)
    saver.save(2, tensors(2), {}, final=True)
    until(lambda: notes)
    assert checkpoints.steps_saved(here) == [1, 2]
    assert len(notes) == 1 and "step-000001 could not be uploaded" in notes[0]
    mended.touch()
    saver.close(patience=30)
    assert checkpoints.steps_saved(here) == [2] and notes[1:] == ["step-000001 is uploaded now."]


def test_a_destination_that_is_down_never_stops_training_and_the_next_sitting_goes_on(tmp_path: Path) -> None:
    here, there, notes = tmp_path / "here", tmp_path / "there", []
    down = config(**by_command(there, copy="import sys; sys.exit('no route to host')"))
    saver = Saver(here, down, "me", notes.append)
    for step in (1, 2, 3):
        saver.save(step, tensors(step), {}, final=True)
    until(lambda: notes)
    began = time.monotonic()
    saver.close(patience=0.2)
    assert time.monotonic() - began < 5
    assert "no route to host" in notes[0] and "\n" not in notes[0]
    assert "3 checkpoints were not uploaded" in notes[1] and len(notes) == 2
    assert checkpoints.steps_saved(here) == [1, 2, 3]
    again = Saver(here, config(**by_command(there)), "me", notes.append)
    until(lambda: checkpoints.steps_saved(there) == [1, 2, 3])
    again.save(4, tensors(4), {}, final=True)
    again.close(patience=30)
    assert checkpoints.steps_saved(here) == [4] and len(notes) == 2


@pytest.mark.parametrize(
    ("command", "says"), [(["/nowhere/at/all", "{name}"], "cannot be run"), (["false", "{name}"], "ended with 1")]
)
def test_a_command_that_cannot_work_says_why(tmp_path: Path, command: list[str], says: str) -> None:
    notes: list[str] = []
    saver = Saver(tmp_path, config(upload_command=command), "me", notes.append)
    saver.save(1, tensors(), {}, final=True)
    until(lambda: notes)
    saver.close()
    assert says in notes[0]


def test_a_command_that_hangs_is_ended_with_the_training(tmp_path: Path) -> None:
    saver = Saver(tmp_path, config(upload_command=["sleep", "600", "{name}"]), "me", lambda text: None)
    saver.save(1, tensors(), {}, final=True)
    assert saver.uploader is not None
    destination = saver.uploader.destination
    until(lambda: destination.process is not None)  # type: ignore[attr-defined]
    began = time.monotonic()
    saver.close(patience=0.1)
    assert time.monotonic() - began < 8 and destination.process.poll() is not None  # type: ignore[attr-defined]


def test_a_step_written_anew_counts_as_not_uploaded(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "here", config(**by_command(tmp_path / "there")), "me", lambda text: None)
    assert saver.uploader is not None
    saver.save(1, tensors(1), {}, final=True)
    saver.save(2, tensors(2), {}, final=True)
    until(lambda: saver.uploader.verified(2))  # type: ignore[union-attr]
    saver.back_to(1)
    saver.save(2, tensors(20), {}, final=True)
    until(lambda: saver.uploader.verified(2))  # type: ignore[union-attr]
    saver.close(patience=30)
    there = read_manifest(checkpoints.checkpoint_path(tmp_path / "there", 2))
    assert there.content == read_manifest(checkpoints.checkpoint_path(tmp_path / "here", 2)).content


def test_a_damaged_record_only_uploads_again(tmp_path: Path) -> None:
    for text in ("", "[]", "3", "{"):
        (tmp_path / "uploads.json").write_text(text)
        assert upload.read_uploads(tmp_path / "uploads.json") == {}


class FakeHub:
    """What the uploader uses of huggingface_hub.HfApi; large files get a SHA-256, small ones git's name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.created: list[tuple[str, bool]] = []

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.created.append((repo, private))

    def upload_folder(self, *, repo_id: str, folder_path: str, path_in_repo: str, commit_message: str) -> None:
        for path in Path(folder_path).iterdir():
            self.files[f"{path_in_repo}/{path.name}"] = path.read_bytes()

    def get_paths_info(self, repo: str, names: list[str]) -> list[SimpleNamespace]:
        import hashlib

        found = []
        for name in names:
            if name in self.files:
                data = self.files[name]
                large = name.endswith(".distcp")
                lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()) if large else None
                found.append(SimpleNamespace(path=name, size=len(data), lfs=lfs, blob_id=git_blob_id(data)))
        return found


def test_the_hub_is_asked_for_every_file(tmp_path: Path) -> None:
    hub = FakeHub()
    destination = HubDestination("me/model", hub)
    path = checkpoints.save(tmp_path, 1, tensors(), {}, identity="me")
    with pytest.raises(UploadFailed, match="not on the Hub"):
        destination.check(path)
    destination.send(path)
    destination.send(path)
    destination.check(path)
    assert hub.created == [("me/model", True)]
    for name in list(hub.files):
        whole = hub.files[name]
        hub.files[name] = bytes([whole[0] ^ 1]) + whole[1:]
        with pytest.raises(UploadFailed, match="on the Hub"):
            destination.check(path)
        hub.files[name] = whole[:-1]
        with pytest.raises(UploadFailed, match="full size"):
            destination.check(path)
        hub.files[name] = whole


def test_git_names_a_blob_like_git() -> None:
    assert git_blob_id(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # the Pro Git book, 10.2
