"""`luopan plan`: parameters, FLOPs, memory, time, cost and layout, before a device is touched."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan plan quickstart --device this --measure",
        "luopan plan --preset smollm3-3b --tokens 11.1T --batch-tokens 2359296 --device h100 --devices 384 --mfu 0.3",
        "luopan plan --params 350M --tokens 20B --device a100 --deadline 3d",
    )
)
def plan(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name or file; or give --params or --preset.")] = None,
    params: Annotated[str | None, typer.Option(metavar="N", help="Parameters, such as 135M or 3B.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="A named shape, such as smollm2-135m.")] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens, such as 20B. Default: 20 for each parameter.")
    ] = None,
    length: Annotated[int, typer.Option(metavar="N", help="Tokens in a row.")] = 4096,
    batch_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a step. Default: by published fits.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="h100, a100, rtx4090 …; this: the machine at hand.")] = "",
    devices: Annotated[int, typer.Option(metavar="N", help="How many of them.")] = 1,
    mfu: Annotated[float | None, typer.Option(metavar="X", help="Share of the peak that is reached.")] = None,
    price: Annotated[float | None, typer.Option(metavar="USD", help="Of a device's hour.")] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 12h or 3d: how many devices that takes.")
    ] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens of your data: how often they are read, and what it is worth."),
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Activations are computed again.")] = False,
    all_layouts: Annotated[
        bool, typer.Option("--all-layouts", help="Tensor and context parallel ones too, which luopan does not train.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time this machine on the shape, some seconds each.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Says what a training costs: parameters, FLOPs, memory, time, money, layout.

    Either of all training stages of a recipe, or of a size and a number of tokens.
    """
    from luopan.lab.planning import asked

    question = asked.Question(
        params=params, preset=preset, tokens=tokens, length=length, batch_tokens=batch_tokens, device=device,
        devices=devices, mfu=mfu, price=price, deadline=deadline, unique_tokens=unique_tokens, recompute=recompute,
        all_layouts=all_layouts, measure=measure,
    )  # fmt: skip
    answer: dict[str, Any] = (
        asked.plan_recipe(recipe, question) if recipe is not None else asked.plan_size(question)
    )  # fmt: skip
    print(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else asked.as_text(answer))
