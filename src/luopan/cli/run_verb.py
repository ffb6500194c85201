"""`luopan run RECIPE`: bring a run up to date."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan run quickstart",
        "luopan run my.yaml --until sft sft.learning_rate=1e-3 corpus.path=texts",
        "luopan run quickstart --fresh grpo",
        "luopan run my.yaml --supervise --stop-after 11h30m",
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
    stop_after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Save and stop after 3h, 90m or 45s, with exit code 75.")
    ] = None,
    supervise: Annotated[bool, typer.Option("--supervise", help="Start the run again when it crashes.")] = False,
    max_restarts: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With --supervise: give up after N restarts (100).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Runs a recipe from raw text to a chat model.

    A stage that is done is skipped, one that was interrupted goes on where it stopped, one whose settings changed is
    made again with all that follows it. Ctrl-C saves; the same command goes on.
    """
    from luopan.errors import RecipeError
    from luopan.recipe.load import load_recipe
    from luopan.train.interrupt import parse_duration

    seconds = None if stop_after is None else parse_duration(stop_after)
    if max_restarts is not None and not supervise:
        raise RecipeError("--max-restarts has no effect without --supervise")
    loaded = load_recipe(recipe, overrides or ())
    if supervise:
        words = [recipe, *(overrides or ()), "--runs", str(runs)]
        words += [] if until is None else ["--until", until]
        words += [word for stage in only or () for word in ("--only", stage)]
        words += ["--json"] if as_json else []
        raise typer.Exit(supervised(words, fresh or [], runs / loaded.recipe.name, seconds, max_restarts))
    result = stoppable(seconds, as_json, loaded, until=until, only=only or (), fresh=fresh or (), runs=runs)
    if as_json and os.environ.get("RANK", "0") == "0":
        print(json.dumps(as_plain(result), ensure_ascii=False, indent=2))


def supervised(
    words: list[str], fresh: list[str], folder: Path, seconds: float | None, max_restarts: int | None
) -> int:
    """The run as a child that is started again; returns its exit code."""
    from luopan.pipeline.supervise import Supervisor, refuse_under_torchrun, run_command

    refuse_under_torchrun()
    command = run_command(words, fresh, folder, time.time())
    supervisor = Supervisor(command, folder, lambda text: print(text, file=sys.stderr, flush=True))
    supervisor.stop_after = seconds
    if max_restarts is not None:
        supervisor.max_restarts = max_restarts
    return supervisor.run()


def stoppable(seconds: float | None, as_json: bool, loaded: Any, **options: Any) -> Any:
    """The run in this process. Training stops by itself when the time is up, anything else a second later.

    SIGTERM ends it as Ctrl-C does, also where no training is going on.
    """
    from contextlib import nullcontext

    from luopan.pipeline.reporter import ConsoleReporter, make_console
    from luopan.pipeline.run import run as run_recipe
    from luopan.train.interrupt import deadline, orderly_sigterm

    reporter = ConsoleReporter(make_console(stderr=as_json))
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # a rank that stops by itself would leave the others waiting
    limit = deadline(time.monotonic() + seconds + 1) if seconds is not None and alone else nullcontext()
    with orderly_sigterm(), limit:
        return run_recipe(loaded, reporter=reporter, stop_after=seconds, **options)


def as_plain(result: Any) -> dict[str, Any]:
    """What --json prints."""
    shown = {"kind", "identity", "content", "seconds", "metrics"}
    stages = {
        name: {"state": outcome.state, "path": str(result.stage(name))}
        | outcome.manifest.model_dump(mode="json", include=shown)
        for name, outcome in result.outcomes.items()
    }
    cost = {"seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes}
    return {"path": str(result.path), **cost, "stages": stages}
