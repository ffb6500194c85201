"""`luopan eval MODEL…`: held-out questions with a checkable answer, and tasks out of files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app
from luopan.cli.sampling import MaxNewTokens, Temperature, sampling_from

if TYPE_CHECKING:
    from luopan.evals.skills import SkillReport
    from luopan.lab.evaluation.run import Evaluated

app = verb_app()


@app.command(
    "eval",
    epilog=examples(
        "luopan eval runs/quickstart/grpo --tasks addition,identity",
        "luopan eval runs/quickstart/sft --tasks addition --think --cases 200 --json",
        "luopan eval runs/a/sft runs/b/sft --tasks early-signal,my.yaml --limit 200 --out scores",
    ),
)
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…", help="A stage, a Hugging Face folder, a hub id, or http://host:8000/v1#name of a server."
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(metavar="A,B", help="Skills, tasks, suites, task files, lm_eval:NAME; `list` names them all."),
    ],
    cases: Annotated[int, typer.Option(min=1, metavar="N", help="Questions per skill.")] = 50,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N rows of each task.")] = None,
    think: Annotated[
        bool | None, typer.Option(help="Ask with thinking on or off; default: as the task does.", show_default=False)
    ] = None,
    chat: Annotated[
        bool | None, typer.Option(help="Ask tasks as a chat, or not; default: as the task does.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Other questions than the run's report asks.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with NAME.jsonl in place of a task's own rows.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of task files in lm_eval's format, for lm_eval:NAME.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the server's key.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write results.json and every row here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Asks models questions and grades the answers: accuracy with its standard error, beside what guessing scores.

    Of several models the later ones are compared with the first, row by row; a * marks what is beyond two standard
    errors.
    """
    if tasks == "list":
        print_names()
        return
    from luopan.lab.evaluate import QUESTION_SEED, evaluate_skills
    from luopan.lab.evaluation.names import read_names
    from luopan.lab.evaluation.run import Settings, evaluate_tasks, write_out
    from luopan.pipeline.models import resolve_model

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("give at least one task; `--tasks list` names them", param_hint="--tasks")
    asked = read_names(names)
    idle = {"--out": out, "--limit": limit, "--data": data} if not (asked.tasks or asked.harness) else {}
    idle |= {} if asked.harness else {"--include-path": include_path}
    if useless := [option for option, value in idle.items() if value is not None]:
        raise typer.BadParameter("has no effect with these tasks", param_hint=useless[0])
    reports: dict[str, SkillReport] = {}
    for model in models if asked.skills else ():
        params = sampling_from(
            model, max_new_tokens=max_new_tokens or 96, temperature=0.0 if temperature is None else temperature
        )
        where = QUESTION_SEED if seed is None else seed
        reports[model] = evaluate_skills(
            *resolve_model(model), asked.skills, cases=cases, thinking=think, params=params, seed=where
        )
    found: list[Evaluated] = []
    if asked.tasks or asked.harness:
        settings = Settings(
            limit=limit, data=data, seed=seed or 0, chat=chat, thinking=think, max_new_tokens=max_new_tokens,
            temperature=temperature, include_path=include_path, api_key_env=api_key_env,
        )  # fmt: skip
        found = evaluate_tasks(models, asked.tasks, asked.harness, settings, say=_say)
        if out is not None:
            write_out(found, out)
    if as_json:
        print(json.dumps(_json(models, reports, found), ensure_ascii=False, indent=2))
        return
    for model, report in reports.items():
        _print_skills(report, model if len(models) > 1 else "")
    if found:
        _print_tasks(found)


def print_names() -> None:
    """Skills a line each, then tasks and suites with what they are."""
    from luopan.corpus.skills import skill_names
    from luopan.evals.tasks.shipped import load_suite, load_task, suite_names, task_names

    print("\n".join(skill_names()))
    for name in task_names():
        print(f"{name}  {load_task(name)[0].description}")
    for name in suite_names():
        suite = load_suite(name)
        print(f"{name}  {suite.description} ({', '.join(suite.tasks)})")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _json(models: list[str], reports: dict[str, SkillReport], found: list[Evaluated]) -> dict[str, Any]:
    """One model and skills alone keep the form they always had."""
    from luopan.lab.evaluation.run import to_json

    if not found and len(models) == 1:
        return {"model": models[0], **reports[models[0]].to_dict()}
    skills = {model: report.to_dict() for model, report in reports.items()}
    return {**(to_json(found) if found else {}), **({"skills": skills} if skills else {})}


def _print_skills(report: SkillReport, title: str) -> None:
    from rich.table import Table

    from luopan.pipeline.reporter import make_console

    table = Table(box=None, padding=(0, 2), show_edge=False, title=title or None, title_justify="left")
    table.add_column("task")
    for heading in ("accuracy", "±", "questions", "ends by itself", "tokens", "thinks when on", "silent when off"):
        table.add_column(heading, justify="right")
    for name, score in {**report.skills, **({"all": report.total} if len(report.skills) > 1 else {})}.items():
        rates = (score.stop_rate, score.mean_tokens, score.think_on, score.think_off)
        table.add_row(name, _text(score.accuracy), _text(score.stderr), str(score.scored), *map(_text, rates))
    make_console().print(table)


def _print_tasks(found: list[Evaluated]) -> None:
    from rich.table import Table
    from rich.text import Text

    from luopan.lab.evaluation.run import table as cells_of
    from luopan.pipeline.reporter import make_console

    titles, rows = cells_of(found)
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for at, title in enumerate(titles):
        table.add_column(Text(title), justify="left" if at < 2 else "right", overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    console = make_console()
    console.print(table)
    for one in found:
        for result in one.results:
            if result.notes:
                told = ", ".join(f"{name} {value:.3g}" for name, value in result.notes.items())
                console.print(Text(f"{one.model}, {result.task}: {told}"))


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
