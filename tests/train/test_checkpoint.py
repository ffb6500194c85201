"""Checkpoints: bitwise round trip, pruning, other runs refused, and a full disk that harms nothing."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from training_toys import RandomFeed, config, step_folders, tiny_model

from luopan.artifacts import manifest
from luopan.errors import ArtifactError, DiskFullError
from luopan.train import checkpoint as checkpoints
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress


def tensors(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {"a.weight": torch.randn(5, 7, generator=generator), "b": torch.randn(3, generator=generator)},
        "optimizer": {"a.weight": {"step": torch.tensor(float(seed)), "exp_avg": torch.randn(5, 7)}},
    }


def save(folder: Path, step: int, keep: int = 2, identity: str = "me") -> None:
    checkpoints.save(folder, step, tensors(step), {"seconds": 1.5}, identity=identity, keep=keep)


def silent(text: str) -> None:
    raise AssertionError(text)


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    saved = tensors(7)
    checkpoints.save(tmp_path, 7, saved, {"seconds": 1.5}, identity="me", keep=2)
    found = checkpoints.newest_sound(tmp_path, identity="me", note=silent)
    assert found is not None and found.step == 7 and found.state["seconds"] == 1.5
    loaded = tensors(8)
    checkpoints.load(found, loaded)
    for part in ("a.weight", "b"):
        assert torch.equal(loaded["model"][part], saved["model"][part])
    for part in ("step", "exp_avg"):
        assert torch.equal(loaded["optimizer"]["a.weight"][part], saved["optimizer"]["a.weight"][part])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 1_000_000):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-1000000"]
    assert checkpoints.steps_saved(tmp_path) == [3, 1_000_000]


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, identity="someone else")
    with pytest.raises(ArtifactError, match="other settings"):
        checkpoints.newest_sound(tmp_path, identity="me", note=silent)


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".step-000002.partial").mkdir()
    checkpoints.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["tensors", "state", "checksum", "flush"])
def test_disk_full_while_saving_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save(tmp_path, 1)
    if moment == "tensors":  # inside torch's writer, whose exception hides the cause
        monkeypatch.setattr(torch, "save", full_disk)
    elif moment == "state":
        monkeypatch.setattr(checkpoints, "atomic_write_json", full_disk)
    elif moment == "checksum":
        monkeypatch.setattr(manifest, "sha256_file", full_disk)
    else:
        monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DiskFullError, match="disk is full") as caught:
        save(tmp_path, 2)
    monkeypatch.undo()
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    found = checkpoints.newest_sound(tmp_path, identity="me", note=silent)
    assert found is not None and found.step == 1


def test_too_little_room_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "tensor_bytes", lambda tensors: 2**60)
    with pytest.raises(DiskFullError, match="MiB are free"):
        save(tmp_path, 1)
    assert not list(tmp_path.iterdir())


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


def test_a_disk_that_is_really_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_disk / "run"
    settings = config(max_steps=2, save_steps=1)

    def sitting() -> None:
        fit(tiny_model(), RandomFeed(), causal_lm_loss, settings, folder, device="cpu", seed=0, progress=progress)

    progress = SilentProgress()
    filler = small_disk / "filler"

    class Filling(RandomFeed):
        def micro_batches(self, step: int):
            if step == 1:
                free = os.statvfs(small_disk)
                filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 40_000))
            return super().micro_batches(step)

    monkeypatch.setattr(checkpoints, "ensure_free_space", lambda path, bytes: None)  # meet the real error instead
    with pytest.raises(DiskFullError, match="disk is full"):
        fit(tiny_model(), Filling(), causal_lm_loss, settings, folder, device="cpu", seed=0, progress=progress)
    assert step_folders(folder) == ["step-000001"]
    filler.unlink()
    sitting()
    assert step_folders(folder) == ["step-000001", "step-000002"]
    assert any("Going on from step 1 " in note for note in progress.notes)
