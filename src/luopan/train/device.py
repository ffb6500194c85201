"""Which device trains, what it is called, what memory was used, and glibc's allocator set up for training.

Limits: Apple's MPS is not picked by itself, since nothing here was measured on it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

M_TRIM_THRESHOLD = -1  # parameters of mallopt(3), from glibc's malloc.h
M_TOP_PAD = -2
M_MMAP_MAX = -4
M_MXFAST = 1
M_ARENA_MAX = -8
LARGE = 2**31 - 1


def pick_device() -> torch.device:
    """CUDA where there is one that works, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device | None = None) -> str:
    """The device in words: "NVIDIA H100 (79 GiB)", or "CPU, 2 threads (x86_64, AVX512)"."""
    device = device or pick_device()
    if device.type == "cuda":
        figures = torch.cuda.get_device_properties(device)
        return f"{figures.name} ({figures.total_memory / 2**30:.0f} GiB)"
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return f"CPU, {torch.get_num_threads()} threads ({platform.machine()}, {capability})"
    return device.type


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[Any]:
    """The precision of the computation: bf16 where it is asked for, or pays (CUDA); weights and gradients stay fp32."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def tune_allocator() -> bool:
    """Tell glibc to keep freed memory instead of handing it back to the system; True if it was done.

    A training step frees and asks again for the same large blocks; glibc takes them from the system each time, and
    every page of them faults and is zeroed anew. Measured on a 0.86M model, 16 rows of 256 tokens, one thread: page
    faults per step 23,000-28,000 -> 50-700, time in the kernel 55 ms -> 3 ms of a 450 ms step (12%), peak memory 1 to
    5% higher. With blocks of random sizes the peak was 538 MiB instead of 420, and stayed there.
    One arena, so that the backward pass (another thread) fills the gaps that the forward pass leaves, and no fast bins,
    which hold back the ends that aligned blocks are trimmed by and so keep blocks from being joined again. The cache
    per thread does the same; it can be switched off only before the program starts (`luopan.cli.main`): together 16%
    less memory at 5.6M parameters, and the same speed (docs/log.md).
    Linux with glibc only, and for this process only; harmless elsewhere (returns False). Switch off with
    LUOPAN_TUNE_ALLOCATOR=0. Must run before the first large allocation to have its whole effect.
    """
    if not sys.platform.startswith("linux") or os.environ.get("LUOPAN_TUNE_ALLOCATOR") == "0":
        return False
    if "LD_PRELOAD" in os.environ:  # jemalloc or tcmalloc: mallopt would talk to nobody
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or platform.libc_ver()[0] != "glibc":
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGE), (M_ARENA_MAX, 1), (M_MXFAST, 0))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """The most memory used so far, in bytes: of the device for CUDA, of this process for the CPU."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
