"""`luopan sweep RECIPE STAGE.KEY=A,B,C`: one stage with several settings and seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan sweep quickstart sft.learning_rate=1e-3,2.5e-3,5e-3 --seeds 2",
        "luopan sweep my.yaml preference.beta=0.05,0.1,0.5 preference.learning_rate=1e-6,1e-5",
    )
)
def sweep(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    settings: Annotated[
        list[str],
        typer.Argument(metavar="STAGE.KEY=VALUE[,VALUE]...", help="Several values: swept. One: set for all trials."),
    ],
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Trainings of every setting.")] = 1,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs live; this one in DIR/<name>.")] = Path("runs"),
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be trained, train nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Trains one stage with every combination of settings; the stages before it are made once.

    Shows a table and a page with pictures and picks nothing. Diverged trainings are marked. Ctrl-C saves; the same
    command goes on.
    """
    from luopan.lab.sweep import describe, plan_sweep, run_sweep
    from luopan.lab.sweep_report import as_plain, short_table, write_sweep
    from luopan.pipeline.reporter import ConsoleReporter, make_console
    from luopan.train.interrupt import orderly_sigterm

    planned = plan_sweep(recipe, settings, seeds)
    console = make_console(stderr=as_json)
    if plan:
        for trial in planned.trials:
            console.print(f"{trial.name}  {describe(trial)}", highlight=False)
        return
    with orderly_sigterm():
        results = run_sweep(
            planned,
            runs=runs,
            reporter=ConsoleReporter(console),
            said=lambda text: console.print(text, highlight=False),
        )
    page = write_sweep(planned, results, runs)
    if as_json:
        print(json.dumps(as_plain(planned, results), ensure_ascii=False, indent=2))
        return
    from luopan.cli.tables import print_table

    print_table(console, short_table(results))
    console.print(f"page: {page}", highlight=False)
    if all(result.trouble for result in results):
        raise typer.Exit(1)
