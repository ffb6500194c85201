"""`luopan ablate BASE CHANGE...`: one change at a time against a baseline, with seeds and a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan ablate quickstart qk:pretrain.model.qk_norm=false --seeds 3",
        'luopan ablate my.yaml gqa.yaml wd:pretrain.weight_decay=0 --metric "bits per byte" --match parameters',
        "luopan ablate my.yaml gqa.yaml nope.yaml --leave-one-out --adopt next.yaml",
    )
)
def ablate(
    recipe: Annotated[
        str, typer.Argument(metavar="BASE", help="The baseline: a shipped recipe's name or a YAML file.")
    ],
    changes: Annotated[
        list[str],
        typer.Argument(metavar="CHANGE...", help="NAME:STAGE.KEY=VALUE, or a file with name, hypothesis, set."),
    ],
    stage: Annotated[
        str | None, typer.Option(metavar="STAGE", help="What is measured; default: the last changed.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="FIGURE", help="What decides; default: its first headline.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Trainings of every arm.")] = 3,
    several: Annotated[bool, typer.Option("--several", help="A change may have several settings.")] = False,
    match: Annotated[
        str | None, typer.Option(metavar="HOW", help="Arms of another size: parameters (keep it) or nothing.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="All changes together against all but one.")
    ] = False,
    adopt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the recipe with the change that held.")
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs live; this one in DIR/<name>.")] = Path("runs"),
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be trained, train nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Trains the baseline and each change with the same seeds and says: better, worse, or within noise.

    Keeps a ledger in runs/<name>/ablations/ablations.md. Ctrl-C saves; the same command goes on.
    """
    from luopan.errors import RecipeError
    from luopan.lab.ablation import ablate as lab
    from luopan.lab.ablation.changes import read_change
    from luopan.lab.ablation.derive import plan_ablation
    from luopan.pipeline.reporter import ConsoleReporter, make_console
    from luopan.train.interrupt import orderly_sigterm

    if match not in (None, "parameters", "nothing"):
        raise RecipeError(f"--match is {match!r}", hint="parameters or nothing")
    planned = plan_ablation(
        recipe, [read_change(text) for text in changes], stage=stage, seeds=seeds, several=several,
        match=match, leave_one_out=leave_one_out,  # type: ignore[arg-type]
    )  # fmt: skip
    console = make_console(stderr=as_json)
    if plan:
        for arm in planned.arms:
            size = f"{arm.parameters:,} parameters" if arm.parameters else ""
            console.print(f"{arm.name}: {' '.join([*arm.settings, arm.resized]).strip() or 'as it is'}  {size}",
                          highlight=False)  # fmt: skip
        console.print(f"{len(planned.trials)} trainings of {planned.stage}; copied: {', '.join(planned.copied)}")
        return
    with orderly_sigterm():
        outcome = lab.run_ablation(
            planned, metric=metric, runs=runs, reporter=ConsoleReporter(console),
            said=lambda text: console.print(text, highlight=False),
        )  # fmt: skip
    ledger = lab.write_outcome(outcome, runs)
    if as_json:
        print(json.dumps(lab.entry(outcome), ensure_ascii=False, indent=2))
    else:
        from luopan.cli.tables import print_table

        print_table(console, lab.outcome_table(outcome))
        for one in outcome.verdicts:
            console.print(one.text(outcome.metric.unit), highlight=False)
        console.print(f"ledger: {ledger}", highlight=False)
    if adopt is not None:
        console.print(f"{lab.adopt(outcome, adopt)} adopted: {adopt}", highlight=False)
