"""SIGKILL at random moments of saving, over and over: what is found afterwards is whole, and never far behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from luopan.train import checkpoint as checkpoints
from luopan.train.config import TrainConfig
from luopan.train.saver import Saver


def tensors(step: int) -> dict:
    """Every element says which step it belongs to; 4 MB, so that writing takes a while."""
    return {"model": {f"{n}": torch.full((250_000,), float(step)) for n in range(4)}}


def resumed(folder: Path, notes: list[str]) -> int:
    """The step to go on from; every element of the checkpoint must agree with it."""
    checkpoints.remove_leftovers(folder)
    found = checkpoints.newest_sound(folder, identity="me", note=notes.append)
    if found is None:
        return 0
    into = tensors(-1)
    checkpoints.load(found, into)
    for tensor in into["model"].values():
        assert tensor.min() == tensor.max() == found.step == found.state["told"]
    return found.step


def main(folder: Path, in_background: bool) -> None:
    """Saves step after step until it is killed; says which saves are finished."""
    torch.set_num_threads(1)
    config = TrainConfig(learning_rate=1.0, max_steps=10**6, save_steps=1, save_total_limit=2, async_save=in_background)
    saver = Saver(folder, config, "me", print)
    step = resumed(folder, [])
    live = tensors(step)
    while True:
        step += 1
        for tensor in live["model"].values():
            tensor.fill_(step)  # the update happens in place, while an earlier save may still be writing
        saver.save(step, live, {"told": step})
        os.write(1, f"{saver.sound or 0}\n".encode())


@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)], ids=["three", "twenty"]
)
def test_killed_at_random_moments_of_saving(tmp_path: Path, kills: int, seed: int) -> None:
    folder, draw, reached, notes = tmp_path / "checkpoints", random.Random(seed), 0, []
    for number in range(kills):
        command = [sys.executable, __file__, str(folder), str(number % 2)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.4))
        child.kill()
        told = [int(line) for line in child.communicate()[0].split()]
        step = resumed(folder, notes)
        assert step >= max([reached, *told]), "a save that was over must be there"
        assert step > reached or not told
        reached = step
    assert reached > 0 and not notes, "nothing may look damaged: half a checkpoint never has a checkpoint's name"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "1")
