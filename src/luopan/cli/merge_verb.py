"""`luopan merge OUT MODEL MODEL …`: one model out of the weights of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan merge soup runs/a/preference runs/b/preference",
        "luopan merge final soup runs/a/sft --weights 0.9,0.1",
        "luopan merge both runs/maths/sft runs/chat/sft --method ties --base runs/base/pretrain --density 0.3",
    )
)
def merge(
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Stages, model folders, hub ids, adapters.")],
    method: Annotated[str, typer.Option(help="linear, slerp, task_arithmetic or ties.")] = "linear",
    weights: Annotated[str | None, typer.Option(metavar="A,B", help="One for each model; default: alike.")] = None,
    normalize: Annotated[bool, typer.Option(help="linear: divide by the sum of the weights.")] = True,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="task_arithmetic, ties: what they came from.")
    ] = None,
    t: Annotated[float | None, typer.Option(min=0, max=1, help="slerp: where between the two (0.5).")] = None,
    density: Annotated[float | None, typer.Option(help="ties: share of each change that is kept (0.5).")] = None,
    scale: Annotated[float | None, typer.Option(help="task_arithmetic, ties: what the changes are times (1).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Merges models of one shape, tensor by tensor; tokenizer and template are the first one's.

    Models of other shapes or vocabularies are refused by the key that differs. merge.json in the result says what it
    was made of.
    """
    from luopan.errors import RecipeError
    from luopan.pipeline.models import merge_models
    from luopan.pipeline.reporter import make_console

    try:
        shares = tuple(float(part) for part in weights.split(",")) if weights else ()
    except ValueError:
        raise RecipeError(f"--weights {weights!r} is no list of numbers", hint="Such as 0.9,0.1") from None
    console = make_console(stderr=True)
    record = merge_models(
        out, models, method=method, weights=shares, normalize=normalize, base=base, t=t, density=density, scale=scale,
        said=lambda text: console.print(f"warning: {text}", highlight=False),
    )  # fmt: skip
    print(json.dumps(record, indent=2) if as_json else f"wrote {out}")
