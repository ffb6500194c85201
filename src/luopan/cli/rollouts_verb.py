"""`luopan rollouts RUN`: what the policy said while it learnt, and what it was worth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()
MOST_STEPS = 30


@app.command(
    epilog=examples(
        "luopan rollouts runs/quickstart",
        "luopan rollouts runs/quickstart --step last --sort=-reward",
        "luopan rollouts runs/quickstart --step 40 --prompt 3",
        "luopan rollouts runs/quickstart --grep 'forty|fourty' --ungraded --json",
    )
)
def rollouts(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or that of one stage.")],
    stage: Annotated[str | None, typer.Option(metavar="S", help="The stage, where several have rollouts.")] = None,
    step: Annotated[str | None, typer.Option(metavar="N", help="The update that sampled; or first, last.")] = None,
    prompt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --step: one prompt and all its answers.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="T", help="Only prompts of this task.")] = None,
    ungraded: Annotated[
        bool, typer.Option("--ungraded", help="Only prompts with an answer that could not be graded.")
    ] = False,
    grep: Annotated[
        str | None, typer.Option(metavar="RE", help="Only prompts with this expression in question or answer.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="reward, length or advantage, largest first; -reward: smallest first."),
    ] = None,
    page: Annotated[int, typer.Option(metavar="N", min=1, help="Which page of the prompts.")] = 1,
    per_page: Annotated[int, typer.Option(metavar="N", min=1, help="Prompts on a page.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Pages through the rollouts of a run: figures of each step, prompts that match, one prompt with its answers.

    Without --step and filters: a table of steps. With them: prompts, a page at a time. With --step and --prompt: one
    prompt with all its answers.
    """
    from luopan.cli import rollouts_print as out
    from luopan.errors import RecipeError
    from luopan.rl import browse

    logs = browse.find_logs(run, stage)
    wanted = browse.Wanted(task, ungraded, grep, sort)
    if prompt is not None and step is None:
        raise RecipeError("--prompt says which prompt of a step", hint="Add --step N (or first, last).")
    if step is None and not wanted:
        found = {log.stage: [browse.summary(log, at) for at in browse.thinned(log.steps, MOST_STEPS)] for log in logs}
        if as_json:
            _json({name: [asdict(one) for one in summaries] for name, summaries in found.items()})
            return
        for log in logs:
            out.print_steps(log, found[log.stage], title=len(logs) > 1)
        return
    if len(logs) > 1:
        raise RecipeError("several stages have rollouts", hint=f"--stage: {', '.join(log.stage for log in logs)}")
    (log,) = logs
    steps = log.steps if step is None else (browse.step_of(log, step),)
    if prompt is not None:
        row = browse.prompt_of(log, steps[0], prompt)
        _json(row.record) if as_json else out.print_prompt(row)
        return
    rows = list(browse.search(log, steps, wanted))
    shown = rows[(page - 1) * per_page : page * per_page]
    if as_json:
        _json([{"step": row.step, "prompt": row.number, **row.record} for row in shown])
        return
    out.print_rows(shown, page, per_page, len(rows))


def _json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
