"""`luopan template`: what a chat template makes of conversations, what of it is trained, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

app = verb_app()


class TrainOn(StrEnum):
    """What is learnt."""

    assistant = "assistant"
    last_turn = "last_turn"
    all = "all"


@app.callback(epilog=examples("luopan template list", "luopan template lint runs/quickstart/sft"))
def template() -> None:
    """Shows conversations as a model sees them, what of them is trained, and what is wrong with a chat template."""


@app.command(
    epilog=examples(
        "luopan template render talks.jsonl --model runs/quickstart/tokenizer --limit 3",
        "luopan template render talks.jsonl --template qwen3 --train-on last_turn --html mask.html",
    )
)
def render(
    file: Annotated[Path, typer.Argument(help="Conversations, pairs or text: .jsonl, .json, .csv, .parquet.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose tokenizer and template.")
    ] = "runs/quickstart/tokenizer",
    template: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Another template: a shipped one, or a .jinja file.")
    ] = None,
    train_on: Annotated[TrainOn, typer.Option(help="What is learnt of a conversation.")] = TrainOn.assistant,
    limit: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 10,
    think: Annotated[bool, typer.Option(help="Thinking on for rows that do not say.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page instead of printing.")] = None,
) -> None:
    """Renders conversations with the template, the trained parts in green (in ⟦⟧ where there is no colour).

    A row that cannot be used is named with its line and the reason; with any such row the exit code is 1.
    """
    from luopan.artifacts import atomic_write_text
    from luopan.pipeline.models import tokenizer_folder
    from luopan.stages.rendered import render_file
    from luopan.tokens.show import mask_page, render_mask
    from luopan.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_folder(model))
    if template is not None:
        from luopan.tokens.lint import use_template

        use_template(tokenizer, source_of(template))
    found = render_file(file, tokenizer, limit=limit, train_on=train_on.value, think=think)
    if found.decision:
        print(found.decision, file=sys.stderr)
    for fault in found.faults:
        print(f"error: {fault}", file=sys.stderr)
    if html:
        atomic_write_text(html, mask_page(tokenizer, found.shown, found.faults, found.decision))
        print(f"wrote {html}")
    else:
        style: Any = "ansi" if sys.stdout.isatty() else "plain"
        print("\n".join(f"{title}\n{render_mask(tokenizer, example, style)}" for title, example in found.shown))
    if found.faults:
        raise typer.Exit(1)


@app.command(
    epilog=examples("luopan template lint runs/quickstart/sft", "luopan template lint chat.jinja --model my-model")
)
def lint(
    what: Annotated[str, typer.Argument(metavar="MODEL|NAME|FILE", help="A model, a shipped template, a .jinja file.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Whose tokenizer a named template or a file is for.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Looks for what a template drops, leaks or trains wrongly; with an error the exit code is 1.

    A template without a model is looked at with a stand-in tokenizer that has the control tokens it writes.
    """
    from luopan.pipeline.models import tokenizer_folder
    from luopan.tokens.lint import announced_stops, lint_template, report_text, stand_in_tokenizer
    from luopan.tokens.tokenizer import load_tokenizer

    source = source_of(what) if is_template(what) else None
    owner = model if source is not None else what
    folder = tokenizer_folder(owner) if owner is not None else None
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(folder) if folder else stand_in_tokenizer(str(source))
    report = lint_template(tokenizer, source=source, generation_eos=announced_stops(folder) if folder else None)
    print(json.dumps(report.as_json(), ensure_ascii=False, indent=1) if as_json else report_text(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command("list", epilog=examples("luopan template list", "luopan template list --json"))
def list_templates(as_json: JsonFlag = False) -> None:
    """The templates that ship, and what each can do."""
    from dataclasses import asdict

    from luopan.tokens.templates import TEMPLATES

    if as_json:
        print(json.dumps([asdict(info) for info in TEMPLATES.values()], ensure_ascii=False, indent=1))
        return
    for info in TEMPLATES.values():
        print(f"{info.name}: {info.description}")
        facts = {"system": info.system_role, "tools": info.tools, "thinking": info.thinking, "limits": info.limits}
        for name, value in facts.items():
            if value:
                print(f"  {name:<10}{value}")


@app.command(epilog=examples("luopan template show qwen3"))
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="One of `luopan template list`.")]) -> None:
    """Prints the source of a template that ships."""
    from luopan.tokens.templates import template_source

    print(template_source(name), end="")


def is_template(what: str) -> bool:
    """A shipped template's name or a .jinja file, rather than a model."""
    from luopan.tokens.templates import TEMPLATES

    return what.endswith(".jinja") or (what in TEMPLATES and not Path(what).is_dir())


def source_of(what: str) -> str:
    """The source of a shipped template, or of a .jinja file."""
    from luopan.artifacts import mend_os_errors
    from luopan.errors import ModelError
    from luopan.tokens.templates import template_source

    if not what.endswith(".jinja"):
        return template_source(what)
    if not Path(what).is_file():
        raise ModelError("no such file", where=what)
    with mend_os_errors(Path(what)):
        return Path(what).read_text(encoding="utf-8")
