"""Measurements of one machine: matrix products, memory, disk, data order, checkpoints.

Each is repeated for a share of `seconds` and its best round counts: what the machine can do when nothing disturbs it.
Limits: caches make small products and small copies faster than memory is; the disk is measured through the page cache
and flushed at the end; one device.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SIZES = (128, 256, 512, 1024, 2048, 4096)
LARGE_SIZES = (8192, 16_384)  # on an accelerator
STREAM_BYTES = 256 * 2**20
DISK_BYTES = 256 * 2**20
CHECKPOINT_PARAMETERS = 12_000_000


@dataclass(frozen=True)
class Measurement:
    """`value` in `unit` per second (FLOP, B, token) unless `unit` says otherwise; `intensity` in FLOPs a byte."""

    group: str
    name: str
    value: float
    unit: str
    datasheet: float | None = None
    intensity: float | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """Of the data sheet's."""
        return None if not self.datasheet else self.value / self.datasheet


def fastest(work: Callable[[], Any], wait: Callable[[], Any], seconds: float, rounds: int = 1) -> float:
    """Seconds of the fastest of the repetitions that `seconds` has room for, at least three."""
    work()  # the first sets things up
    wait()
    best, count, started = float("inf"), 0, time.perf_counter()
    while count < 3 or time.perf_counter() - started < seconds:
        begin = time.perf_counter()
        for _ in range(rounds):
            work()
        wait()
        best = min(best, (time.perf_counter() - begin) / rounds)
        count += 1
    return best


def waiter(device: torch.device) -> Callable[[], Any]:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def matmuls(device: torch.device, seconds: float, peak: float | None) -> Iterator[Measurement]:
    """Products [n, n] x [n, n] by size and type. `peak` of the data sheet counts for bf16 on an accelerator."""
    kinds = (torch.bfloat16, torch.float32) if device.type == "cuda" else (torch.float32, torch.bfloat16)
    sizes = SIZES + LARGE_SIZES if device.type == "cuda" else SIZES[:-1]
    for kind in kinds:
        name = str(kind).removeprefix("torch.")
        for size in sizes:
            a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
            rounds = max(1, min(64, int(2e9 / (2 * size**3)))) if device.type == "cuda" else 1
            took = fastest(lambda a=a, b=b: a @ b, waiter(device), seconds / 10, rounds)  # type: ignore[misc]
            flops = 2 * size**3 / took
            intensity = 2 * size**3 / (3 * size**2 * a.element_size())
            known = peak if kind is torch.bfloat16 and device.type == "cuda" else None
            yield Measurement("matmul", f"{name} {size}", flops, "FLOP", known, intensity)
            if size**3 * 2 / flops > seconds:
                break


def memory(device: torch.device, seconds: float, peak: float | None) -> Iterator[Measurement]:
    """Bytes per second of copying, filling and adding arrays that no cache holds (reads and writes both count)."""
    count = (STREAM_BYTES if device.type == "cpu" else 8 * STREAM_BYTES) // 4
    a, b, c = (torch.zeros(count, device=device) for _ in range(3))
    for name, work, moved in (
        ("copy", lambda: b.copy_(a), 2), ("fill", lambda: b.fill_(1.0), 1), ("add", lambda: torch.add(a, b, out=c), 3),
    ):  # fmt: skip
        yield Measurement("memory", name, moved * 4 * count / fastest(work, waiter(device), seconds / 4), "B", peak)


def disk(folder: Path, seconds: float) -> Iterator[Measurement]:
    """Writing (flushed at the end) and reading back a file; what was read may come out of the page cache."""
    block = os.urandom(4 * 2**20)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file, written, begin = Path(place) / "bench", 0, time.perf_counter()
        with file.open("wb") as out:
            while written < DISK_BYTES and time.perf_counter() - begin < seconds:
                written += out.write(block)
            out.flush()
            os.fsync(out.fileno())
        yield Measurement("disk", "write", written / (time.perf_counter() - begin), "B", note="flushed")
        fd = os.open(file, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # out of the page cache, as far as it lets go
        finally:
            os.close(fd)
        begin = time.perf_counter()
        with file.open("rb") as source:
            while source.read(4 * 2**20):
                pass
        yield Measurement("disk", "read", written / (time.perf_counter() - begin), "B")


def loader(folder: Path, seconds: float) -> Iterator[Measurement]:
    """Tokens per second of the data order: rows of 1,024 out of shards of documents of some 300 tokens, as batches."""
    import numpy as np

    from luopan.tokens.rows import TokenRows
    from luopan.tokens.shards import write_shards

    draw = np.random.default_rng(0)
    documents = [draw.integers(0, 50_000, int(size)) for size in draw.integers(20, 600, 4000)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        rows = TokenRows({"text": write_shards(documents, Path(place) / "tokens", 50_001, 50_000)}, None, 1024, 0)
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds / 2 or not done:
            rows.batch(range(done, done + 8))
            done += 8
        yield Measurement("data", "rows of 1,024 tokens", done * 1024 / (time.perf_counter() - begin), "token")


def checkpoint(folder: Path, seconds: float) -> Iterator[Measurement]:
    """A checkpoint of weights and both moments of 12M parameters, written as in training: sums, flushed, renamed."""
    from luopan.train import checkpoint as kept

    tensors = {name: torch.randn(CHECKPOINT_PARAMETERS) for name in ("weights", "first", "second")}
    size = sum(4 * tensor.numel() for tensor in tensors.values())
    with tempfile.TemporaryDirectory(dir=folder) as place:
        begin = time.perf_counter()
        kept.save(Path(place), 1, tensors, {}, identity="bench")
        yield Measurement("disk", "checkpoint", size / (time.perf_counter() - begin), "B", note=f"{size / 1e6:.0f} MB")
