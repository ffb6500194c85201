"""`luopan run RECIPE`: bring a run up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan run quickstart",
        "luopan run my.yaml --until sft sft.learning_rate=1e-3 corpus.path=texts",
        "luopan run quickstart --fresh grpo",
    )
)
def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings changed for this run.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Touch this stage alone; what it needs has to be done.")
    ] = None,
    fresh: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Make this stage again from nothing.")
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs live; this one in DIR/<name>.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """Runs a recipe from raw text to a chat model.

    A stage that is done is skipped, one that was interrupted goes on where it stopped, one whose settings changed is
    made again with all that follows it. Ctrl-C saves; the same command goes on.
    """
    from luopan.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or ())

    from luopan.pipeline.reporter import ConsoleReporter, make_console
    from luopan.pipeline.run import run as run_recipe

    reporter = ConsoleReporter(make_console(stderr=as_json))
    result = run_recipe(loaded, until=until, only=only or (), fresh=fresh or (), runs=runs, reporter=reporter)
    if as_json:
        shown = {"kind", "identity", "content", "seconds", "metrics"}
        stages = {
            name: {"state": outcome.state, "path": str(result.stage(name))}
            | outcome.manifest.model_dump(mode="json", include=shown)
            for name, outcome in result.outcomes.items()
        }
        cost = {"seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes}
        print(json.dumps({"path": str(result.path), **cost, "stages": stages}, ensure_ascii=False, indent=2))
