"""Several processes that train together: starting them, what they say to each other, and who works alone.

In a single process everything here does nothing. `torchrun`, or any launcher that sets RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT (and LOCAL_RANK for GPUs), starts the processes; `processes` connects them. Two channels: tensors go
over NCCL on GPUs and gloo on CPUs; Python values and waiting go over gloo on the host, with a timeout of days, since
the other ranks wait there while rank 0 curates a corpus or measures a model.

What is left out of the sum is the division: gradients, losses and weights are added up, and the loop divides once.

Limits: NCCL and several machines have not run; a rank that dies takes the others with it (torchrun starts them again).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from luopan.errors import FeedUnavailable, LuopanError, TrainingError

Item = TypeVar("Item")
Done = TypeVar("Done")
BUCKET_ELEMENTS = 2**24  # 64 MiB of fp32: large enough for the network, small enough beside the gradients
WAIT = timedelta(days=14)  # for rank 0, which may be at work alone
STEP = timedelta(minutes=10)  # for the others to appear, and for a tensor: NCCL notices a dead peer by this alone
POLL_SECONDS = 0.02


class LeftToLeader(Exception):
    """What takes the ranks other than 0 out of a stage, whose rest is rank 0's; the pipeline catches it."""


# ---- starting ----


def asked_for() -> int:
    """How many processes the launcher started, from its WORLD_SIZE; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def processes() -> Iterator[None]:
    """Connect the processes that the launcher started, for the time of the block; nothing for a single process, or
    where the caller has connected them already. Each GPU process takes the GPU of its LOCAL_RANK.

    However the block ends, the connection is closed: processes that wait for this one then end too, with an error.
    """
    if asked_for() == 1 or dist.is_initialized():
        yield
        return
    work_alone(False)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    store, number, size = next(rendezvous("env://", timeout=STEP))
    dist.init_process_group(backend, store=unused(store, number, size), rank=number, world_size=size, timeout=STEP)
    try:
        host_group(dist.group.WORLD)
        yield
    finally:
        host_group.cache_clear()
        dist.destroy_process_group()


def unused(store: dist.Store, number: int, size: int) -> dist.Store:
    """A part of the launcher's store that no earlier processes have written to; all ranks get the same.

    torchrun keeps one store over its restarts, and gloo, which meets there, now and then found the address of a dead
    process in it and waited for that one (seen with torch 2.13). Rank 0 names the part. Each rank asks with
    a word of its own, so that it cannot take an old answer for its own; rank 0 answers until all have heard it.
    """
    word = secrets.token_hex(8)
    if number:
        store.set(f"luopan/asked/{number}", word)
        word = store.get(f"luopan/answer/{word}").decode()
        store.set(f"luopan/heard/{word}/{number}", "")
        return dist.PrefixStore(word, store)
    missing, patience = set(range(1, size)), time.monotonic() + STEP.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"luopan/asked/{other}"]):
                store.set("luopan/answer/" + store.get(f"luopan/asked/{other}").decode(), word)
            if store.check([f"luopan/heard/{word}/{other}"]):
                missing.discard(other)
        if missing and time.monotonic() > patience:
            raise TrainingError(
                f"of {size} processes {len(missing)} did not appear, the first of them rank {min(missing)}",
                hint="Look at what those printed; MASTER_ADDR must be a name that their machines can reach.",
            )
        time.sleep(POLL_SECONDS)
    return dist.PrefixStore(word, store)


@lru_cache(maxsize=1)
def host_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """The channel for Python values and for waiting. Every rank has to ask for it at the same point."""
    return dist.new_group(backend="gloo", timeout=WAIT)


@contextmanager
def lost_peer() -> Iterator[None]:
    """gloo's words for a process at the other end that is gone, as an error that says so."""
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error) and "onnection" not in str(error):
            raise
        raise TrainingError(
            "another process of this run has stopped, so this one stops too",
            hint="Its own message says why. Start all of them again: they go on from the last checkpoint.",
        ) from error


# ---- who is who ----


_alone = False


def work_alone(alone: bool) -> None:
    """Whether this process is at work while the others wait for it: then it counts as the only one."""
    global _alone
    _alone = alone


def world_size() -> int:
    """How many processes train together; 1 where torch.distributed was not started, or the others wait."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's contiguous part of a step's rows: sizes differ by at most one, every item is in one rank's part."""
    count, ranks, mine = len(items), world_size(), rank()
    return items[count * mine // ranks : count * (mine + 1) // ranks]


# ---- tensors ----


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Add each tensor up over the ranks, in place. They must be of one dtype and device, the same on every rank."""
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > BUCKET_ELEMENTS:
            sum_bucket(bucket)
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        sum_bucket(bucket)


def sum_bucket(tensors: Sequence[Tensor]) -> None:
    """One all-reduce for many tensors: they travel as one."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with lost_peer():
        dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


# ---- values, and waiting ----


def gather_objects(value: Any) -> list[Any]:
    """Every rank's plain Python value, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with lost_peer():
        dist.all_gather_object(values, value, group=host_group(dist.group.WORLD))
    return values


def from_leader(value: Any) -> Any:
    """Rank 0's value on every rank; what the others give is not looked at."""
    if world_size() == 1:
        return value
    box = [value if rank() == 0 else None]
    with lost_peer():
        dist.broadcast_object_list(box, src=0, group=host_group(dist.group.WORLD))
    return box[0]


def barrier() -> None:
    """Wait for the other ranks, as long as it takes."""
    gather_objects(None)


def together(work: Callable[[], Done]) -> Done:
    """Every rank does `work`, which speaks to no other rank; where it fails on one, all raise and none is left waiting.

    The rank that failed raises its own error, the others a TrainingError with its words. FeedUnavailable, after which
    the ranks save together, is raised only where no rank has another error, and then on all.
    """
    if world_size() == 1:
        return work()
    failed: Exception | None = None
    try:
        done = work()
    except Exception as error:
        failed = error
    told = [words for words in gather_objects(None if failed is None else _words(failed)) if words is not None]
    if not told:
        return done
    number, message, hint, away = next((words for words in told if not words[3]), told[0])
    if failed is not None and isinstance(failed, FeedUnavailable) is away:
        raise failed
    heard = FeedUnavailable if away else TrainingError
    raise heard(f"rank {number} failed: {message}", hint=hint)


def _words(error: Exception) -> tuple[int, str, str | None, bool]:
    """The rank, what its error says, and whether all can save."""
    if isinstance(error, LuopanError):
        return rank(), error.message, error.hint, isinstance(error, FeedUnavailable)
    return rank(), f"{type(error).__name__}: {error}", None, False


def leader_first(work: Callable[[], None]) -> None:
    """Rank 0 does `work` while the others wait for it; files that it writes are there for all afterwards.

    Meanwhile it counts as the only process, so what it calls waits for nobody.
    """
    if world_size() == 1:
        work()
        return
    if rank() == 0:
        work_alone(True)
        try:
            work()
        finally:
            work_alone(False)
    barrier()


def leave_to_leader() -> None:
    """The rest of a stage is rank 0's: the others leave it here, by `LeftToLeader`. Every rank calls it, once."""
    if world_size() == 1:
        return
    barrier()
    if rank() != 0:
        raise LeftToLeader
    work_alone(True)  # until the next task
