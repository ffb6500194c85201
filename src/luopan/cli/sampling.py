"""The options about sampling that verbs share; what is not given is the model's own default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from luopan.generate.config import SamplingParams

_DRAW, _PENALTIES, _FORM, _LENGTH, _WEIGHTS = (
    "How tokens are drawn", "What is made less or more likely", "What the answer must be", "Where it ends",
    "How the model is held",
)  # fmt: skip

MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Stop after N tokens.", rich_help_panel=_LENGTH)
]  # fmt: skip
Temperature = Annotated[
    float | None, typer.Option(metavar="T", help="0 takes the likeliest token each time.", rich_help_panel=_DRAW)
]


def _option(kind: Any, panel: str, metavar: str, text: str, *names: str) -> Any:
    return Annotated[kind | None, typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)]


# By the names of SamplingParams; in the order in which help shows them.
SAMPLING: Mapping[str, Any] = MappingProxyType({
    "temperature": Temperature,
    "top_k": _option(int, _DRAW, "K", "Draw from the K likeliest tokens."),
    "top_p": _option(float, _DRAW, "P", "Draw from the likeliest tokens that make up P."),
    "min_p": _option(float, _DRAW, "P", "Leave out tokens under P times the best one's chance."),
    "typical_p": _option(float, _DRAW, "P", "Draw from the tokens of usual surprise that make up P."),
    "seed": _option(int, _DRAW, "N", "The same seed gives the same text."),
    "repetition_penalty": _option(float, _PENALTIES, "X", "Over 1 makes repeating less likely."),
    "frequency_penalty": _option(float, _PENALTIES, "X", "Taken off for every time it was said; -2 to 2."),
    "presence_penalty": _option(float, _PENALTIES, "X", "Taken off once it was said; -2 to 2."),
    "logit_bias": _option(list[str], _PENALTIES, "ID=X", "Added to this token, -100 to 100; may be repeated."),
    "bad_words": _option(list[str], _PENALTIES, "TEXT", "Never say this; may be repeated.", "--bad-word"),
    "json_schema": _option(str, _FORM, "FILE|TEXT", "JSON of this schema; {} is any."),
    "regex": _option(str, _FORM, "TEXT", "Text that this expression matches from end to end."),
    "grammar": _option(Path, _FORM, "FILE", "Text of this Lark grammar."),
    "max_new_tokens": MaxNewTokens,
    "min_new_tokens": _option(int, _LENGTH, "N", "Do not end before N tokens."),
    "stop": _option(list[str], _LENGTH, "TEXT", "Stop before this text; may be repeated."),
    "stop_token_ids": _option(list[int], _LENGTH, "ID", "Stop at this token; may be repeated.", "--stop-token-ids"),
    "thinking_budget": _option(int, _LENGTH, "N", "Close the thinking after N tokens of it."),
})  # fmt: skip

# Those of `pipeline.models.text_generator`.
WEIGHTS: Mapping[str, Any] = MappingProxyType({
    "dtype": _option(str, _WEIGHTS, "TYPE", "float32 or bfloat16; default: float32."),
    "quantize": _option(str, _WEIGHTS, "BITS", "Weights in int8 (a quarter of the memory) or int4 (a sixth)."),
    "speculate": _option(
        str, _WEIGHTS, "ngram|MODEL", "Guess ahead, from the text or by a small MODEL; answers stay the same."
    ),
})  # fmt: skip


def sampling_from(model: str, **given: Any) -> SamplingParams:
    """What was given, over what the model's `generation_config.json` says, over greedy decoding."""
    from luopan.generate.config import sampling_params
    from luopan.pipeline.models import default_sampling

    chosen = _read({name: value for name, value in given.items() if value is not None and value != []})
    defaults = default_sampling(model)
    narrows = {"top_k", "top_p", "min_p", "typical_p"}
    if chosen.get("temperature") == 0:
        defaults = {}
    elif "temperature" not in chosen and "temperature" not in defaults and chosen.keys() & narrows:
        chosen["temperature"] = 1.0  # whoever narrows the draw wants to draw
    return sampling_params(**{"temperature": 0.0, **defaults, **chosen})


def _read(given: dict[str, Any]) -> dict[str, Any]:
    """Options as the command line has them to values of SamplingParams: files read, biases taken apart."""
    values = dict(given)
    if "json_schema" in values:
        text = values["json_schema"]
        values["json_schema"] = text if text.lstrip()[:1] in ("{", "[", '"') else _file(Path(text), "--json-schema")
    if "grammar" in values:
        values["grammar"] = _file(values["grammar"], "--grammar")
    if "logit_bias" in values:
        pairs = [text.partition("=") for text in values["logit_bias"]]
        if wrong := [text for text, (_, equals, _) in zip(values["logit_bias"], pairs) if not equals]:
            raise typer.BadParameter(f"{wrong[0]!r} is not ID=X, such as 42=-3", param_hint="--logit-bias")
        values["logit_bias"] = {token: value for token, _, value in pairs}
    return values


def _file(path: Path, option: str) -> str:
    from luopan.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{option}: {reason}", where=str(path)) from error
