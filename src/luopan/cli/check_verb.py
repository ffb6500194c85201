"""`luopan check RECIPE`: what would go wrong, before compute is spent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan check my.yaml",
        "luopan check quickstart --quick",
        "luopan check my.yaml sft.learning_rate=1e-4 --seconds 60",
    )
)
def check(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="As for luopan run.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Settings and data only: seconds.")] = False,
    seconds: Annotated[float, typer.Option(metavar="S", help="For the rehearsal of the stages.")] = 90.0,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs will live: its disk is looked at.")] = Path(
        "runs"
    ),
    as_json: JsonFlag = False,
) -> None:
    """Looks at the recipe, its data, this machine and the model, and rehearses every stage in miniature.

    ✓ sound, ! worth a thought, ✗ would ruin or end the run, – not looked at. Leaves with 1 where there is a ✗.
    """
    import sys

    from luopan.lab.checking.check import check_recipe

    found = []
    told = sys.stderr
    for one in check_recipe(recipe, tuple(settings or ()), runs=runs, quick=quick, seconds=seconds,
                            said=lambda text: print(text, file=told, flush=True)):  # fmt: skip
        found.append(one)
        if not as_json:
            print(one.text, flush=True)
    bad = sum(one.status == "bad" for one in found)
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2))
    else:
        notes = sum(one.status == "note" for one in found)
        print(f"\n{bad} would go wrong, {notes} worth a thought, {len(found) - bad - notes} sound or skipped")
    if bad:
        raise typer.Exit(1)
