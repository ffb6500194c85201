"""`luopan compass`: why, what and how, before anything is trained; a specification and a recipe come out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan compass",
        'luopan compass --goal "Answer questions on our manuals" --reason product --prompting fails --serve-on laptop',
        "luopan compass --answers answers.yaml --out my-model",
    )
)
def compass(
    goal: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model should do, for whom.")] = None,
    reason: Annotated[str | None, typer.Option(help="product, research, gap, learning or compute.")] = None,
    prompting: Annotated[
        str | None, typer.Option(help="An existing model with a prompt: untried, works, fails.")
    ] = None,
    finetuning: Annotated[str | None, typer.Option(help="Fine-tuning one: untried, works, fails.")] = None,
    obstacle: Annotated[
        str | None, typer.Option(help="Against existing models: none, domain, language, size, licence, control.")
    ] = None,
    serve_on: Annotated[str | None, typer.Option(help="phone, laptop, gpu-24gb, gpu-80gb or server.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens of text at hand, such as 2B.")] = None,
    conversations: Annotated[bool | None, typer.Option(help="Should it hold conversations?")] = None,
    context: Annotated[int | None, typer.Option(metavar="N", help="The longest text it reads, in tokens.")] = None,
    languages: Annotated[int | None, typer.Option(metavar="N", help="How many languages.")] = None,
    reasoning: Annotated[bool | None, typer.Option(help="Must it reason?")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="What trains it; see luopan plan.")] = None,
    devices: Annotated[int | None, typer.Option(metavar="N", help="How many of them.")] = None,
    days: Annotated[float | None, typer.Option(metavar="N", help="For how many days.")] = None,
    text_path: Annotated[str | None, typer.Option(metavar="PATH", help="Where the text lies.")] = None,
    chat_path: Annotated[str | None, typer.Option(metavar="FILE", help="Where the conversations lie.")] = None,
    answers: Annotated[Path | None, typer.Option(metavar="FILE", help="A YAML file of answers.")] = None,
    out: Annotated[str, typer.Option(metavar="NAME", help="Writes NAME.md and NAME.yaml.")] = "my-model",
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Asks why, what and how, and says what to do, with the rule and its source behind every recommendation.

    Without --goal and --reason it asks at the terminal. Leaves with 1 where there is no reason to train.
    """
    from luopan.lab.compass.write import ask_and_point, write_papers

    flags: dict[str, Any] = {
        "goal": goal, "reason": reason, "prompting": prompting, "finetuning": finetuning, "obstacle": obstacle,
        "serve_on": serve_on, "tokens": tokens, "conversations": conversations, "context": context,
        "languages": languages, "reasoning": reasoning, "device": device, "devices": devices, "days": days,
        "text_path": text_path, "chat_path": chat_path,
    }  # fmt: skip
    terminal = sys.stdin.isatty() and sys.stdout.isatty()

    def ask(key: str, question: str, default: str) -> str:
        return str(typer.prompt(f"{question}\n{key}", default=default, show_default=bool(default)))

    given, direction = ask_and_point(flags, answers, ask if terminal and not as_json else None, print)
    written = write_papers(Path(out), given, direction, force=force)
    if as_json:
        found = [vars(one) for one in direction.findings]
        print(json.dumps({"path": direction.path, "findings": found, "files": list(map(str, written))}, indent=2))
    else:
        print(written[0].read_text(encoding="utf-8"))
        print("\n".join(f"written: {file}" for file in written))
    if not direction.trains:
        raise typer.Exit(1)
