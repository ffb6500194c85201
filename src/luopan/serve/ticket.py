"""What a client holds of its generations while a worker makes them.

A ticket stands for all the generations of one HTTP request (its choices, or its prompts). The worker's thread sends
news in batches, one hand-over per step for everybody; the ticket gathers them in the event loop. A client that is slow
finds more tokens at once the next time it looks, so nothing is ever waited for on the worker's side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from luopan.generate.config import SamplingParams
from luopan.generate.engine import FinishReason
from luopan.serve.errors import too_late

TopLogprobs = list[tuple[int, float]]


@dataclass(frozen=True)
class Ask:
    """One generation: the prompt's tokens, parameters without texts, what its random numbers are keyed by.

    tops: whether the likeliest tokens are reported as well. constraint: its own, used up by it.
    """

    prompt: Sequence[int]
    params: SamplingParams
    seed: int | None = None
    key: int = 0
    tops: bool = False
    constraint: Any = None


class Heard(NamedTuple):
    """A token that was generated; `top` only where it was asked for."""

    token: int
    logprob: float
    top: TopLogprobs | None


@dataclass(eq=False)
class Seat:
    """One generation of a ticket, in the worker. Only the worker's thread touches what is below `index`."""

    ticket: Ticket
    index: int
    ask: Ask
    number: int | None = None  # in the session
    heard: list[Heard] = field(default_factory=list)  # not handed over yet
    came: float = 0.0  # when it was asked for, and when its last token came
    last: float | None = None
    count: int = 0  # tokens so far
    told: bool = False  # whether it is among those with news


class News(NamedTuple):
    """What has happened to a generation: tokens, and at last how it ended or why it failed."""

    seat: Seat
    heard: list[Heard]
    reason: FinishReason | None
    error: Exception | None


class Ticket:
    """The generations of one request. To be used in the event loop it was made in."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self.loop = asyncio.get_running_loop()
        self.seats = [Seat(self, index, ask) for index, ask in enumerate(asks)]
        self.open = set(range(len(self.seats)))  # what has not ended as far as the client knows
        self._bell = asyncio.Event()
        self._news: list[News] = []

    def deliver(self, news: News) -> None:
        """Called in the event loop."""
        self._news.append(news)
        self._bell.set()

    async def news(self, deadline: float) -> list[News]:
        """What is new, at least one item. ApiError 504 at the deadline (of the loop's clock), or what a step raised."""
        if not self._news:
            self._bell.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._bell.wait()
            except TimeoutError:
                raise too_late() from None
        news, self._news = self._news, []
        for item in news:
            if item.error is not None:
                raise item.error
            if item.reason is not None:
                self.open.discard(item.seat.index)
        return news
