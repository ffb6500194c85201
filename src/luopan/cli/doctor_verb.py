"""`luopan doctor`: what this machine has, how fast it is, what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

if TYPE_CHECKING:
    from luopan.lab.doctor import Diagnosis

app = verb_app()


@app.command(epilog=examples("luopan doctor", "luopan doctor --json --runs /data/runs"))
def doctor(
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs will live.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """Looks at this machine: Python, torch, cores, memory, accelerators, speed, disk, optional packages.

    Leaves with 1 where something keeps luopan from working.
    """
    from luopan.lab.doctor import examine

    found = examine(runs)
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        print(as_text(found))
    if found.problems:
        raise typer.Exit(1)


def as_text(found: Diagnosis) -> str:
    """The diagnosis for people."""
    speed = f", {found.cpu_flops / 1e9:.0f} GFLOP/s in fp32 with {found.threads} threads" if found.cpu_flops else ""
    write = found.disk_write_bytes_per_second
    rows = [
        ("Python", f"{found.python} on {found.platform}"),
        ("torch", found.torch or "missing"),
        ("cores", f"{found.cores:g}{speed}"),
        ("memory", f"{found.memory_bytes / 1e9:.1f} GB, {found.available_bytes / 1e9:.1f} GB free now"),
    ]
    if not found.accelerators:
        rows.append(("accelerator", "none: everything runs on the CPU"))
    for card in found.accelerators:
        flops = f", {card.flops / 1e12:.0f} TFLOP/s in {'bf16' if card.bf16 else 'fp16'}" if card.flops else ""
        rows.append(("accelerator", f"{card.name}, {card.memory_bytes / 1e9:.0f} GB{flops}"))
    rows += [
        ("disk", f"{found.disk_free_bytes / 1e9:.1f} GB free at {found.disk_path}"),
        ("", f"{write / 1e6:.0f} MB/s written and flushed" if write else "cannot be written to"),
        ("packages", ", ".join(f"{name} {version}" for name, version in found.packages.items())),
    ]
    rows += [("missing", f"{name}: {cost}") for name, cost in found.missing.items()]
    rows += [("PROBLEM", problem) for problem in found.problems] or [("", "nothing keeps luopan from working here")]
    return "\n".join(f"{title:<12} {text}" for title, text in rows)
