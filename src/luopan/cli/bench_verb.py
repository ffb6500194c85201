"""`luopan bench`: what this machine gives, beside what its data sheet says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples("luopan bench", "luopan bench --only matmul --only memory --out bench", "luopan bench --ranks 4")
)
def bench(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="matmul, memory, disk, data, collectives; several times.")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="For each kind of measurement.")] = 2.0,
    ranks: Annotated[int, typer.Option(metavar="N", help="Processes for the collectives; 1: none.")] = 2,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs live: this disk is measured.")] = Path("runs"),
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write bench.json and roofline.png there.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measures matrix products by size and type, memory, disk, the data order, checkpoints and collectives.

    In some twenty seconds; the best of several rounds counts.
    """
    from luopan.lab.benchmark.bench import GROUPS, line, run_bench, write_bench

    found, about = run_bench(
        runs, groups=only or GROUPS, seconds=seconds, ranks=ranks,
        said=lambda one: None if as_json else print(line(one), flush=True),
    )  # fmt: skip
    if as_json:
        print(json.dumps({"machine": about, "measurements": [asdict(one) for one in found]}, indent=2))
    if out is not None:
        for file in write_bench(out, found, about):
            if not as_json:
                print(f"written: {file}")
