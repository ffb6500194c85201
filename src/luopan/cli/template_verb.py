"""`luopan template`: what a chat template makes of conversations, and which part of it is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from luopan.cli.app import examples, verb_app

app = verb_app()

PAGE = """<!doctype html><meta charset="utf-8"><title>What is trained</title>
<style>body{{font:14px/1.5 monospace;max-width:60em;margin:2em auto;padding:0 1em}}
pre{{white-space:pre-wrap;border-left:3px solid #ccc;padding-left:1em}}mark{{background:#bde5c8}}</style>
<p>Marked: what the model is trained to say.</p>
{body}
"""


@app.callback(
    epilog=examples("luopan template render talks.jsonl --model runs/quickstart/sft", "luopan template render t.jsonl")
)
def template() -> None:
    """Shows conversations as a model sees them, and what of them is trained."""


@app.command(
    epilog=examples(
        "luopan template render talks.jsonl --model runs/quickstart/tokenizer --limit 3",
        "luopan template render talks.jsonl --html mask.html",
    )
)
def render(
    file: Annotated[Path, typer.Argument(help="A .jsonl file with a `messages` list in every line.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose tokenizer and template.")
    ] = "runs/quickstart/tokenizer",
    limit: Annotated[int, typer.Option(min=1, help="How many conversations to show.")] = 10,
    think: Annotated[bool, typer.Option(help="Thinking on for rows that do not say.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page instead of printing.")] = None,
) -> None:
    """Renders conversations with the template, the trained parts in green (in ⟦⟧ where there is no colour).

    A row that cannot be used is named with its line and the reason; with any such row the exit code is 1.
    """
    from luopan.errors import LuopanError
    from luopan.pipeline.models import tokenizer_folder
    from luopan.tokens.chat import encode_chat, render_mask
    from luopan.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_folder(model))
    style: Literal["plain", "ansi", "html"] = "html" if html else "ansi" if sys.stdout.isatty() else "plain"
    shown, refused = [], 0
    for where, row in rows_of(file, limit):
        if isinstance(row, str):
            refused += 1
            print(f"error: {where}: {row}", file=sys.stderr)
            continue
        thinking = bool(row.get("enable_thinking", row.get("chat_template_kwargs", {}).get("enable_thinking", think)))
        try:
            example = encode_chat(
                tokenizer, row["messages"], enable_thinking=thinking, tools=row.get("tools"), where=where
            )
        except LuopanError as error:
            refused += 1
            print(f"error: {error}", file=sys.stderr)
            continue
        trained = sum(label != -100 for label in example.labels)
        title = f"{where}: {len(example.input_ids)} tokens, {trained} trained"
        text = render_mask(tokenizer, example, style)
        shown.append(f"<h3>{title}</h3><pre>{text}</pre>" if html else f"{title}\n{text}")
    if html:
        from luopan.artifacts import atomic_write_text

        atomic_write_text(html, PAGE.format(body="\n".join(shown)))
        print(f"wrote {html}")
    else:
        print("\n".join(shown))
    if refused:
        raise typer.Exit(1)


def rows_of(file: Path, limit: int) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(file:line, row) of the first `limit` rows; in place of a row that is no conversation, what is wrong with it."""
    from luopan.stages.rows import read_rows

    for row in islice(read_rows(file), limit):
        if row.values is None:
            yield row.where, row.fault
        elif not isinstance(row.values.get("messages"), list):
            yield row.where, "has no list of `messages`"
        else:
            yield row.where, row.values
