"""This machine and the run: memory, disk, time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luopan.lab.checking.findings import Finding
from luopan.lab.planning.asked import ASSUMED_CPU_MFU, this_device
from luopan.lab.planning.from_recipe import stage_plans
from luopan.lab.planning.plans import ASSUMED_MFU
from luopan.lab.planning.quantities import time_text
from luopan.train.memory import PROCESS_FACTOR, estimate_memory, size_text

LONG = 86_400.0


def look(stages: Mapping[str, Any], runs: Path) -> Iterator[Finding]:
    """Of every training stage whose size is known; the disk for all checkpoints and models together."""
    device = this_device()
    on_cpu = device.name.endswith("CPU")
    total, disk = 0.0, 0
    for plan in stage_plans(stages):
        if plan.model is None or plan.config is None:
            yield Finding("memory and time", "skipped", plan.reason, stage=plan.name)
            continue
        config = plan.config
        needed = estimate_memory(
            plan.model, config, rows=config.per_device_train_batch_size, length=plan.length,
            device_type="cpu" if on_cpu else "cuda",
        )  # fmt: skip
        room = device.memory_bytes / (PROCESS_FACTOR if on_cpu else 1.0)
        flops = plan.model.flops_per_token(plan.length) * plan.tokens
        seconds = flops / (device.flops * (ASSUMED_CPU_MFU if on_cpu else ASSUMED_MFU))
        total += seconds
        weights = 4 * plan.model.num_parameters()
        kept = min(config.save_total_limit or 3, max(1, config.max_steps // config.save_steps))
        disk += weights + kept * (weights + needed.optimizer)
        status = "ok" if needed.total <= room else "bad"
        advice = (
            "" if status == "ok" else "a smaller per_device_train_batch_size, activation_recompute: full, or shards"
        )
        yield Finding("memory", status, f"{size_text(needed.total)} of {size_text(room)}", advice, plan.name)  # type: ignore[arg-type]
        if seconds > LONG:
            yield Finding(
                "time", "note", f"about {time_text(seconds)} on this machine", "luopan plan --measure", plan.name
            )
    if total:
        yield Finding("time", "ok", f"about {time_text(total)} of training on this machine (assumed, not measured)")
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    enough = 1.2 * disk < free
    yield Finding("disk", "ok" if enough else "bad", f"{size_text(disk)} for checkpoints, {size_text(free)} free",
                  "" if enough else "fewer checkpoints: save_total_limit, or another disk: --runs")  # fmt: skip
