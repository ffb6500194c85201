"""Two processes train like one: the same weights, the same figures, one log, stopped and resumed together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from training_toys import batch, config, tiny_model

from luopan.errors import FeedUnavailable, Interrupted, TrainingError
from luopan.tokens.batch import Batch
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.ranks import (
    from_leader,
    gather_objects,
    leader_first,
    leave_to_leader,
    lost_peer,
    processes,
    rank,
    share,
    sum_over_ranks,
    together,
    unused,
    world_size,
)
from luopan.train.tracking import read_metrics

SETTINGS = {"max_steps": 6, "save_steps": 2, "adam_epsilon": 1e-2}


class SharedFeed:
    """Four micro-batches of different sizes in each step, shared out to the ranks; `press`: rank 1 gets a SIGTERM."""

    def __init__(self, press: int | None = None) -> None:
        self.press = press

    def micro_batches(self, step: int) -> list[Batch]:
        if step == self.press and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return list(share([batch(10 * step + n, rows=n + 1) for n in range(4)]))


def train(folder: Path, press: int | None = None) -> torch.Tensor:
    model = tiny_model()
    fit(
        model, SharedFeed(press), causal_lm_loss, config(**SETTINGS), folder, device="cpu", seed=0,
        progress=SilentProgress(),
    )  # fmt: skip
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def main(root: Path) -> None:
    """What each of the two processes runs; `torchrun`'s variables say which one it is."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    report: dict = {"world": world_size()}
    values = [torch.full((3,), float(rank() + 1)), torch.ones(2, 2)]
    sum_over_ranks(values)
    report["sums"] = [value.flatten().tolist() for value in values]
    final = train(root / "two")
    torch.save(final, root / f"two-{rank()}.pt")
    try:
        train(root / "stopped", press=2)
    except Interrupted as error:
        report["stopped"] = error.message
    torch.save(train(root / "stopped"), root / f"stopped-{rank()}.pt")
    try:
        model = tiny_model(seed=rank())
        fit(model, SharedFeed(), causal_lm_loss, config(), root / "x", device="cpu", seed=0, progress=SilentProgress())
    except TrainingError as error:
        report["different"] = error.message
    report["together"] = together(lambda: rank())
    for fault in (ValueError("the verifier broke"), TrainingError("no room", hint="make some")):
        try:
            together(lambda fault=fault: fail(fault) if rank() else None)  # type: ignore[misc]
        except Exception as error:
            report.setdefault("failed", []).append([type(error).__name__, str(error)])
    for faults in ((FeedUnavailable("away"), None), (FeedUnavailable("away"), ValueError("broke"))):
        try:
            together(lambda faults=faults: fail(faults[rank()]))  # type: ignore[misc]
        except Exception as error:
            report.setdefault("away", []).append(type(error).__name__)
    (root / f"report-{rank()}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def fail(error: Exception | None) -> None:
    if error is not None:
        raise error


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)],
            env={**environment, "RANK": str(number), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    alone = train(tmp_path / "one")
    errors = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors

    for number in range(2):
        report = json.loads((tmp_path / f"report-{number}.json").read_text())
        assert report["world"] == 2 and report["sums"] == [[3.0] * 3, [2.0] * 4]
        assert "SIGTERM after step 3" in report["stopped"]
        assert "different weights" in report["different"]
        assert report["together"] == number
        own = [["ValueError", "the verifier broke"], ["TrainingError", "no room\n  make some"]]
        heard = [["TrainingError", "rank 1 failed: ValueError: the verifier broke"],
                 ["TrainingError", "rank 1 failed: no room\n  make some"]]  # fmt: skip
        assert report["away"] == ["FeedUnavailable", "ValueError" if number else "TrainingError"]
        assert report["failed"] == (own if number else heard)
    two = [torch.load(tmp_path / f"{name}-{n}.pt") for name in ("two", "stopped") for n in range(2)]
    assert all(torch.equal(two[0], other) for other in two[1:])
    torch.testing.assert_close(two[0], alone, rtol=0, atol=2e-6)
    timed = ("seconds", "feed_seconds", "tokens_per_second", "memory_bytes")
    for one, other in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == pytest.approx(
            {k: v for k, v in other.items() if k not in timed}, rel=1e-4
        )


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_single_process_is_rank_0_of_1() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert share([1, 2, 3]) == [1, 2, 3]
    values = [torch.ones(2)]
    sum_over_ranks(values)
    assert values[0].tolist() == [1, 1]
    done: list[str] = []
    leader_first(lambda: done.append("written"))
    leave_to_leader()  # goes on
    assert done == ["written"] and gather_objects("mine") == ["mine"] and from_leader("mine") == "mine"
    with processes():  # without a launcher there is nothing to connect
        assert world_size() == 1


def test_processes_that_are_started_again_do_not_meet_the_dead() -> None:
    store = dist.HashStore()
    earlier: list[dist.Store] = []
    for _ in range(3):  # the same store each time, as torchrun keeps it
        with ThreadPoolExecutor(3) as ranks:
            parts = [ranks.submit(unused, store, number, 3) for number in (2, 1, 0)]
            found = [part.result(timeout=20) for part in parts]
        found[0].set("address", "of this time")
        assert all(part.get("address") == b"of this time" for part in found)
        stale = [part for part in earlier if part.get("address") == b"of this time"]
        assert not stale
        found[0].set("address", "of the dead")
        earlier += found
    with ThreadPoolExecutor(2) as ranks:  # rank 1 has died before, and left its question
        store.set("luopan/asked/1", "a word of the dead")
        leader = ranks.submit(unused, store, 0, 2)
        time.sleep(0.2)
        assert not leader.done()
        other = ranks.submit(unused, store, 1, 2)
        leader.result(timeout=20).set("x", "1")
        assert other.result(timeout=20).get("x") == b"1"


def test_only_a_lost_connection_is_taken_for_a_lost_process() -> None:
    with pytest.raises(TrainingError, match="another process of this run has stopped"), lost_peer():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shape"), lost_peer():
        raise RuntimeError("shape mismatch")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
