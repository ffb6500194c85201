"""`luopan eval MODEL`: held-out questions with a checkable answer."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app
from luopan.cli.sampling import MaxNewTokens, Temperature, sampling_from

app = verb_app()


@app.command(
    "eval",
    epilog=examples(
        "luopan eval runs/quickstart/grpo --tasks addition,identity",
        "luopan eval runs/quickstart/sft --tasks addition --think --cases 200 --json",
    ),
)
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage, a Hugging Face folder, or a hub id.")],
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Skills to ask about; `list` names them all.")],
    cases: Annotated[int, typer.Option(min=1, metavar="N", help="Questions per task.")] = 50,
    think: Annotated[
        bool | None, typer.Option(help="Ask with thinking on or off; default: as the task does.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokens = 96,
    temperature: Temperature = 0.0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Other questions than the run's report asks.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Asks a model questions it was not trained on and grades the answers.

    Prints accuracy with its standard error, how often an answer ends by itself, and whether it thinks when it should.
    """
    if tasks == "list":
        from luopan.corpus.skills import skill_names

        print("\n".join(skill_names()))
        return
    from luopan.lab.evaluate import QUESTION_SEED, evaluate_skills
    from luopan.pipeline.models import resolve_model

    params = sampling_from(model, max_new_tokens=max_new_tokens, temperature=temperature)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("give at least one task; `--tasks list` names them", param_hint="--tasks")
    seed = QUESTION_SEED if seed is None else seed
    report = evaluate_skills(*resolve_model(model), names, cases=cases, thinking=think, params=params, seed=seed)
    if as_json:
        print(json.dumps({"model": model, **report.to_dict()}, ensure_ascii=False, indent=2))
        return
    from rich.table import Table

    from luopan.pipeline.reporter import make_console

    table = Table(box=None, padding=(0, 2), show_edge=False)
    table.add_column("task")
    for title in ("accuracy", "±", "questions", "ends by itself", "tokens", "thinks when on", "silent when off"):
        table.add_column(title, justify="right")
    for name, score in {**report.skills, **({"all": report.total} if len(report.skills) > 1 else {})}.items():
        rates = (score.stop_rate, score.mean_tokens, score.think_on, score.think_off)
        table.add_row(name, _text(score.accuracy), _text(score.stderr), str(score.scored), *map(_text, rates))
    make_console().print(table)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
