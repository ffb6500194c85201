"""`luopan export MODEL`: copy a model out of a run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import examples, verb_app

app = verb_app()


class Target(StrEnum):
    """Formats that a model can leave in."""

    HF = "hf"


@app.command(epilog=examples("luopan export runs/quickstart/grpo --to hf --out my-model"))
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage, a Hugging Face folder, or a hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new folder; it must not exist.")],
    to: Annotated[Target, typer.Option(help="The format.")] = Target.HF,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write it as this architecture (llama, qwen3, …; luopan: our own form).",
        ),
    ] = None,
) -> None:
    """Writes a model as a folder that transformers, vLLM and others load, with its tokenizer and its lineage."""
    from luopan.pipeline.export import export_hf

    folder = export_hf(model, out, architecture=architecture)
    from luopan.model.hf_read import is_own_form

    if is_own_form(folder):
        print(f"wrote {folder}: luopan.load({str(folder)!r}) loads it; transformers does not know such models")
    else:
        print(f"wrote {folder}: AutoModelForCausalLM.from_pretrained({str(folder)!r}) loads it")
