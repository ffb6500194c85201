"""The few collective operations the loop needs, which do nothing in a single process.

Data parallelism here is replicas: every rank holds the whole model, gradients are summed over ranks and divided by the
step's weight over all ranks. A rank's feed gives it its share of the step's rows (`share`). Limits: no sharding of
weights or optimizer, and the sum is not overlapped with the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")
BUCKET_ELEMENTS = 2**24  # 64 MiB of fp32: large enough for the network, small enough beside the gradients


def world_size() -> int:
    """How many processes train together; 1 where torch.distributed was not started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's contiguous part of a step's rows: sizes differ by at most one, every item is in one rank's part."""
    count, ranks, mine = len(items), world_size(), rank()
    return items[count * mine // ranks : count * (mine + 1) // ranks]


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
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather_objects(value: Any) -> list[Any]:
    """Every rank's plain Python value, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for the other ranks."""
    if world_size() > 1:
        dist.barrier()
