"""Saving beside the training: what is written is what was true, failures are told, old ones stay until it is safe."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from luopan.errors import ArtifactError, DiskFullError
from luopan.train import checkpoint as checkpoints
from luopan.train import saver as saver_module
from luopan.train.config import TrainConfig
from luopan.train.saver import Saver


def config(**changes) -> TrainConfig:
    return TrainConfig(
        **{
            "learning_rate": 1e-2,
            "max_steps": 100,
            "save_steps": 1,
            "logging_steps": 1,
            "save_total_limit": 1,
            **changes,
        }
    )


def tensors(value: float = 0.0) -> dict:
    return {"model": {"a": torch.full((1000,), value)}, "optimizer": {"a": {"step": torch.tensor(value)}}}


def make(folder: Path, **changes) -> tuple[Saver, list[str]]:
    notes: list[str] = []
    return Saver(folder, config(**changes), "me", notes.append), notes


def loaded(folder: Path) -> tuple[int, float]:
    found = checkpoints.newest_sound(folder, identity="me", note=lambda text: None)
    assert found is not None
    into = tensors(-1.0)
    checkpoints.load(found, into)
    assert len(set(into["model"]["a"].tolist())) == 1
    return found.step, float(into["model"]["a"][0])


class Gate:
    """Holds a save back in its thread until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        write = checkpoints.write_tensors

        def held(*arguments, **options) -> None:
            self.reached.set()
            assert self.open.wait(20)
            write(*arguments, **options)

        monkeypatch.setattr(checkpoints, "write_tensors", held)


def test_training_goes_on_while_it_writes_and_changes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, (saver, notes), live = Gate(monkeypatch), make(tmp_path), tensors(1.0)
    saver.save(1, live, {"x": 1})
    assert gate.reached.wait(20)
    live["model"]["a"].fill_(2.0)  # the next update, while the old weights are being written
    assert not checkpoints.steps_saved(tmp_path)
    gate.open.set()
    saver.wait()
    assert loaded(tmp_path) == (1, 1.0) and not notes


@pytest.mark.parametrize(("changes", "final"), [({"async_save": False}, False), ({}, True)])
def test_in_the_foreground_it_is_there_when_save_returns(tmp_path: Path, changes: dict, final: bool) -> None:
    saver, _ = make(tmp_path, **changes)
    saver.save(1, tensors(1.0), {}, final=final)
    assert saver.thread is None and loaded(tmp_path) == (1, 1.0)


def test_without_room_for_a_copy_it_saves_in_the_foreground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(saver_module, "copied", no_room)
    saver, notes = make(tmp_path)
    saver.save(1, tensors(1.0), {})
    assert loaded(tmp_path) == (1, 1.0) and not notes


def test_older_ones_go_only_when_the_new_one_was_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, notes = make(tmp_path)
    saver.save(1, tensors(1.0), {}, final=True)
    replace = checkpoints.replace_folder

    def flips_a_bit(partial: Path, final: Path) -> None:
        replace(partial, final)
        file = final / "__0_0.distcp"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    monkeypatch.setattr(checkpoints, "replace_folder", flips_a_bit)
    saver.save(2, tensors(2.0), {})
    saver.wait()
    assert loaded(tmp_path) == (1, 1.0)
    assert len(notes) == 1 and "step 2 could not be saved" in notes[0] and "other bytes" in notes[0]
    monkeypatch.undo()
    saver.save(3, tensors(3.0), {})
    saver.wait()
    assert checkpoints.steps_saved(tmp_path) == [3]


def test_a_failed_save_is_one_line_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, notes = make(tmp_path)
    saver.save(1, tensors(1.0), {})
    saver.wait()

    def full(*arguments) -> None:
        raise DiskFullError("the disk is full while writing (0 MiB free)", where=tmp_path, hint="Free some space.")

    monkeypatch.setattr(checkpoints, "ensure_free_space", full)
    saver.save(2, tensors(2.0), {})
    saver.wait()
    saver.poll()
    assert len(notes) == 1 and "\n" not in notes[0]
    assert (
        "step 2 could not be saved: the disk is full" in notes[0]
        and "the newest checkpoint is that of step 1" in notes[0]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    with pytest.raises(DiskFullError):
        saver.save(3, tensors(3.0), {}, final=True)
    monkeypatch.undo()
    saver.save(3, tensors(3.0), {}, final=True)
    assert loaded(tmp_path) == (3, 3.0) and len(notes) == 1


def test_a_failure_of_ours_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "write_tensors", lambda *arguments: 1 / 0)
    saver, _ = make(tmp_path)
    saver.save(1, tensors(), {})
    with pytest.raises(ZeroDivisionError):
        saver.wait()
    saver.wait()  # told once


def test_a_step_that_is_saved_already_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, _ = make(tmp_path)
    saver.save(1, tensors(1.0), {})
    saver.wait()
    monkeypatch.setattr(checkpoints, "write_tensors", lambda *arguments: 1 / 0)
    saver.save(1, tensors(1.0), {}, final=True)
    assert loaded(tmp_path) == (1, 1.0)


def test_the_best_is_kept_though_its_score_comes_after_the_save(tmp_path: Path) -> None:
    saver, notes = make(tmp_path, keep_best="bits")
    for step, bits in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0)):
        saver.save(step, tensors(step), {})
        saver.scored(step, {"bits": bits})
    saver.close()
    assert checkpoints.steps_saved(tmp_path) == [2, 4] and not notes


def test_a_metric_that_never_came_is_told_at_the_end(tmp_path: Path) -> None:
    saver, notes = make(tmp_path, keep_best="bist")
    saver.save(1, tensors(), {}, final=True)
    saver.scored(1, {"bits": 1.0})
    saver.close()
    assert len(notes) == 1 and "'bist'" in notes[0]


def test_going_back_and_saving_the_same_step_again(tmp_path: Path) -> None:
    saver, _ = make(tmp_path, save_total_limit=3)
    for step in (1, 2, 3):
        saver.save(step, tensors(step), {})
    saver.back_to(1)
    assert loaded(tmp_path) == (1, 1.0)
    saver.save(3, tensors(30.0), {}, final=True)
    assert loaded(tmp_path) == (3, 30.0)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 3 MiB; skips where this process may not mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.parametrize("in_background", [True, False])
def test_a_disk_that_is_really_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch, in_background: bool) -> None:
    saver, notes = make(small_disk, async_save=in_background, save_total_limit=2)
    big = {"model": {"a": torch.ones(50_000)}}  # 200 kB
    saver.save(1, big, {})
    saver.wait()
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 40_000))
    monkeypatch.setattr(checkpoints, "ensure_free_space", lambda path, bytes: None)  # meet the real error instead
    saver.save(2, big, {})
    saver.wait()
    assert len(notes) == 1 and "disk is full" in notes[0]
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "step-000001"]
    with pytest.raises(DiskFullError, match="disk is full"):
        saver.save(3, big, {}, final=True)
    filler.unlink()
    saver.save(3, big, {}, final=True)
    assert checkpoints.steps_saved(small_disk) == [1, 3] and len(notes) == 1


def test_a_place_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, notes = make(tmp_path)

    def forbidden(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    saver.save(1, tensors(), {})
    saver.wait()
    assert "cannot be written to" in notes[0] and "there is no checkpoint yet" in notes[0]
    with pytest.raises(ArtifactError, match="cannot be written to"):
        saver.save(2, tensors(), {}, final=True)
