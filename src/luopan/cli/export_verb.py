"""`luopan export MODEL`: copy a model out of a run, for other people's software."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import examples, verb_app
from luopan.errors import ModelError

app = verb_app()


class Target(StrEnum):
    """Formats that a model can leave in."""

    HF = "hf"
    GGUF = "gguf"
    ADAPTER = "adapter"


@app.command(
    epilog=examples(
        "luopan export runs/quickstart/grpo --to hf --out my-model --license apache-2.0 --language en",
        "luopan export runs/quickstart/grpo --to gguf --quantize q8_0 --out my-model-gguf",
        "luopan export runs/mine/sft --to adapter --out my-adapter --base-model owner/name",
    )
)
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage, a Hugging Face folder, or a hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new folder; it must not exist.")],
    to: Annotated[
        Target,
        typer.Option(help="hf: transformers, vLLM, SGLang; gguf: llama.cpp, Ollama; adapter: PEFT."),
    ] = Target.HF,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="gguf: f32, f16 (default), bf16, q8_0, q5_1, q5_0, q4_1, q4_0; with llama-cpp-python also q4_k_m, "
            "q6_k …. hf: f32, bf16, f16 (default: as trained).",
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="hf: write it as this architecture (llama, qwen3, …; luopan: our own form).",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="For the model card, such as apache-2.0.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="For the model card, such as en; may be repeated.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="What it was trained from, for card and adapter.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="gguf: the system prompt in the Modelfile.")
    ] = None,
    inexact_tokenizer: Annotated[
        bool,
        typer.Option(
            "--inexact-tokenizer",
            help="gguf: where llama.cpp cannot cut text as the tokenizer does, take the nearest way it has.",
        ),
    ] = False,
) -> None:
    """Writes a model in a form that other software loads, with its tokenizer, model card and lineage."""
    idle = {
        "--architecture": architecture is not None and to is not Target.HF,
        "--quantize": quantize is not None and to is Target.ADAPTER,
        "--system": system is not None and to is not Target.GGUF,
        "--inexact-tokenizer": inexact_tokenizer and to is not Target.GGUF,
    }
    for name, useless in idle.items():
        if useless:
            raise ModelError(f"{name} has no effect with --to {to.value}")
    from luopan.pipeline.card_facts import CardOptions

    card = CardOptions(license=licence, languages=tuple(language or ()), base_model=base_model)
    if to is Target.HF:
        from luopan.pipeline.export import export_hf

        made = export_hf(model, out, architecture=architecture, dtype=quantize, card=card)
    elif to is Target.GGUF:
        from luopan.pipeline.export_gguf import GgufOptions, export_gguf

        options = GgufOptions(kind=quantize or "f16", system=system, inexact_tokenizer=inexact_tokenizer)
        made = export_gguf(model, out, options, card=card)
    else:
        from luopan.pipeline.export_adapter import export_adapter

        made = export_adapter(model, out, card=card)
    print(f"wrote {made.folder} ({', '.join(sorted(path.name for path in made.folder.iterdir()))})")
    for note in made.notes:
        print(f"note: {note}")
    for command in made.commands:
        print(f"  {command}")
