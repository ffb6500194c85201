"""Bytes per second that ranks exchange: all-reduce, all-gather, reduce-scatter between processes of this machine.

Bus bandwidth as NCCL's tests count it: what a ring sends over each link, so that it compares with the link's figure
(all-reduce 2 (n - 1)/n · bytes, the others (n - 1)/n). Gloo on the CPU, NCCL where there is a GPU for every rank.
Limits: one machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from luopan.errors import LuopanError
from luopan.lab.benchmark.measures import Measurement

BYTES = (64 * 2**10, 2**20, 16 * 2**20)
PATIENCE = 120.0  # seconds for all of it


def collectives(ranks: int, seconds: float, link: float | None) -> Iterator[Measurement]:
    """Of `ranks` processes. LuopanError where they do not find each other."""
    port = _free_port()
    started = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}  # fmt: skip
        command = [sys.executable, "-m", "luopan.lab.benchmark.collectives", str(seconds)]
        started.append(subprocess.Popen(command, env={**os.environ, **place}, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True))  # fmt: skip
    try:
        said = [process.communicate(timeout=PATIENCE) for process in started]
    except subprocess.TimeoutExpired:
        raise LuopanError(f"{ranks} ranks did not finish in {PATIENCE:.0f} s", hint="luopan bench --ranks 1") from None
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        last = next(err for process, (_, err) in zip(started, said) if process.returncode).strip().splitlines()
        raise LuopanError(f"the ranks failed: {last[-1] if last else 'no message'}", hint="luopan bench --ranks 1")
    for one in json.loads(said[0][0].splitlines()[-1]):
        yield Measurement("collectives", f"{one['name']} {one['bytes'] // 2**10:,} KiB", one["rate"], "B", link,
                          note=f"{ranks} ranks, {one['backend']}")  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    """A rank."""
    import time

    import torch
    import torch.distributed as dist

    ranks, local, seconds = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]), float(sys.argv[1])
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= ranks
    backend = "nccl" if gpus else "gloo"
    if gpus:
        torch.cuda.set_device(local)
    dist.init_process_group(backend)
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    found: list[dict[str, Any]] = []
    for size in BYTES:
        whole = torch.zeros(size // 4 // ranks * ranks, device=device)
        part = torch.zeros(whole.numel() // ranks, device=device)
        share = (ranks - 1) / ranks
        for name, work, factor in (
            ("all-reduce", lambda whole=whole: dist.all_reduce(whole), 2 * share),
            ("all-gather", lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part), share),
            ("reduce-scatter", lambda whole=whole, part=part: dist.reduce_scatter_tensor(part, whole), share),
        ):
            work()  # type: ignore[no-untyped-call]
            count = torch.tensor([8 if backend == "gloo" else 64])
            best = float("inf")
            begin = time.perf_counter()
            for _ in range(5):
                dist.barrier()
                at = time.perf_counter()
                for _ in range(int(count)):
                    work()  # type: ignore[no-untyped-call]
                if gpus:
                    torch.cuda.synchronize()
                best = min(best, (time.perf_counter() - at) / int(count))
                # All ranks leave together, or one would wait for the others for ever.
                late = torch.tensor([float(time.perf_counter() - begin > seconds / 8)], device=device)
                dist.all_reduce(late)
                if float(late) > 0:
                    break
            rate = factor * whole.numel() * 4 / best
            found.append({"name": name, "bytes": size, "rate": rate, "backend": backend})
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
