"""What every verb's command line has in common: plain help, no completion scripts, examples kept as written."""

from __future__ import annotations

from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def verb_app() -> typer.Typer:
    """A typer app that leaves errors to `luopan.cli.main` and prints plain help."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def examples(*lines: str) -> str:
    """The epilog of a command; line breaks are kept."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\b\n" + "\n".join([title, *(f"  {line}" for line in lines)])
