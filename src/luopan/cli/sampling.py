"""The sampling options that `generate`, `chat` and `eval` share; what is not given is the model's own default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from luopan.generate.config import SamplingParams

MaxNewTokens = Annotated[int | None, typer.Option(metavar="N", help="Stop after N tokens.")]
Temperature = Annotated[float | None, typer.Option(metavar="T", help="0 takes the likeliest token each time.")]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(metavar="P", help="Draw from the likeliest tokens that make up P.")]
MinP = Annotated[float | None, typer.Option(metavar="P", help="Leave out tokens under P times the best one's chance.")]
RepetitionPenalty = Annotated[float | None, typer.Option(metavar="X", help="Over 1 makes repeating less likely.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be repeated.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same text.")]


def sampling_from(model: str, **given: Any) -> SamplingParams:
    """What was given, over what the model's `generation_config.json` says, over greedy decoding."""
    from luopan.generate.config import sampling_params
    from luopan.pipeline.models import default_sampling

    chosen = {name: value for name, value in given.items() if value is not None and value != []}
    defaults = default_sampling(model)
    if chosen.get("temperature") == 0:
        defaults = {}
    elif "temperature" not in chosen and "temperature" not in defaults and chosen.keys() & {"top_k", "top_p", "min_p"}:
        chosen["temperature"] = 1.0  # whoever narrows the draw wants to draw
    return sampling_params(**{"temperature": 0.0, **defaults, **chosen})
