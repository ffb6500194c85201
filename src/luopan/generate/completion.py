"""What comes out of the engine: whole completions, and the tokens of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from luopan.generate.rows import Likeliest

FinishReason = Literal["stop", "length", "cancelled"]
OnToken = Callable[[int, int, float], bool | None]


@dataclass(frozen=True)
class Completion:
    """What one request generated.

    tokens: with the stop token that ended it, if one did (it is trained like the rest in reinforcement learning).
    logprobs: of each token under the distribution it was drawn from, filters and temperature included; for greedy
    decoding, where nothing is drawn, under the model's own at temperature 1. finish_reason: "stop" if a stop token (or
    a listener) ended it or its grammar is complete, "length" if the limit or the end of the context did (or a grammar
    that this vocabulary cannot go on with), "cancelled" if `Session.cancel`. top_logprobs: for each token the likeliest
    (id, logprob) of that same distribution, where they were asked for; tokens that could not come are left out.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    top_logprobs: Likeliest | None = None


@dataclass(frozen=True)
class Token:
    """One token of a stream; finish_reason is set on a request's last."""

    request: int
    token: int
    logprob: float
    finish_reason: FinishReason | None
    top_logprobs: list[tuple[int, float]] | None = None
