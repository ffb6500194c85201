"""Two processes save their shards into one checkpoint; one or three load it. A full disk on one is told."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from luopan.errors import DiskFullError
from luopan.train import checkpoint as checkpoints
from luopan.train.config import TrainConfig
from luopan.train.saver import Saver

WHOLE = torch.arange(35.0).reshape(7, 5)  # seven rows: shards of uneven size


def tensors(world: int, value: float = 0.0) -> dict:
    """A sharded matrix and a scalar that every rank has; zero unless `value` is 1."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    return {"model": {"a": distribute_tensor(WHOLE * value, mesh, [Shard(0)])}, "step": {"n": torch.tensor(value)}}


def main(folder: Path, task: str) -> None:
    """What each process runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world, notes = dist.get_rank(), dist.get_world_size(), []
    if task == "save":
        config = TrainConfig(learning_rate=1.0, max_steps=9, save_total_limit=1)
        saver = Saver(folder, config, "me", notes.append, sharded=True)
        saver.save(1, tensors(world, 1.0), {"rank": rank})
        saver.save(2, tensors(world, 1.0), {"rank": rank})
        write = torch.save
        if rank == 1:
            torch.save = full_disk
        saver.save(3, tensors(world, 1.0), {"rank": rank})
        try:
            saver.save(4, tensors(world, 1.0), {"rank": rank}, final=True)
        except DiskFullError as error:
            notes.append(error.message)
        torch.save = write
        if rank == 0:
            checkpoints.build_manifest = full_disk
        saver.save(5, tensors(world, 1.0), {"rank": rank})
    else:
        for saved in (folder, folder.with_name("one")):
            found = checkpoints.newest_sound(saved, identity="me", note=notes.append)
            assert found is not None
            into = tensors(world)
            checkpoints.load(found, into, sharded=True)
            assert torch.equal(into["model"]["a"].full_tensor(), WHOLE) and float(into["step"]["n"]) == 1.0
    (folder.parent / f"{task}-{rank}.json").write_text(json.dumps(notes))
    dist.destroy_process_group()


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def together(processes: int, *arguments: str) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        number = str(port.getsockname()[1])
    command = [sys.executable, __file__, *arguments]
    shared = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": number}
    running = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    errors = [one.communicate(timeout=120)[1] for one in running]
    assert not any(one.returncode for one in running), "\n".join(errors)


@pytest.mark.distributed
def test_shards_of_two_load_into_one_and_three(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    together(2, str(folder), "save")
    notes = [json.loads((tmp_path / f"save-{rank}.json").read_text()) for rank in (0, 1)]
    for told in notes:  # every rank knows what happened on one
        assert "step 3 could not be saved: the disk is full" in told[0] and "that of step 2" in told[0]
        assert "the disk is full" in told[1] and "step 5 could not be saved: the disk is full" in told[2]
    assert [path.name for path in folder.iterdir()] == ["step-000002"]
    assert len(list(folder.glob("step-000002/*.distcp"))) == 2
    found = checkpoints.newest_sound(folder, identity="me", note=print)
    assert found is not None and found.state == {"step": 2, "rank": 0}
    plain = {"model": {"a": torch.zeros(7, 5)}, "step": {"n": torch.tensor(0.0)}}
    checkpoints.load(found, plain)
    assert torch.equal(plain["model"]["a"], WHOLE) and float(plain["step"]["n"]) == 1.0
    whole = {"model": {"a": WHOLE}, "step": {"n": torch.tensor(1.0)}}
    checkpoints.save(folder.with_name("one"), 1, whole, {}, identity="me")
    together(3, str(folder), "load")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
