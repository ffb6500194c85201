"""A model's thread: it owns the engine's session, lets requests in, makes steps, and survives what one of them does.

The event loop talks to it through a lock-protected inbox; it talks back by `call_soon_threadsafe`, once per step. It
never touches text. With nothing to do it sleeps on a condition. A step that fails takes the requests that were in the
session with it (they get a 500) and a new session is made; those still waiting outside go on. Where no session can be
made (no memory, a GPU whose errors stay), those that wait get a 500 as well, `trouble` says why, and it is tried again
after a pause that grows.

Limit: a job (embeddings, scoring of a prompt) runs between two steps and holds the others up for as long as it takes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from luopan.errors import LuopanError
from luopan.generate.engine import Engine, Session
from luopan.serve.errors import ApiError, from_luopan, too_many
from luopan.serve.metrics import ModelMeter
from luopan.serve.ticket import Ask, Heard, News, Seat, Ticket

T = TypeVar("T")
_LOG = logging.getLogger("luopan.serve")
_PAUSE_SECONDS = (0.1, 30.0)  # between attempts to make a session: the first, and the most


class Worker:
    """Generates for one model. `submit`, `cancel` and `call` are for the event loop."""

    def __init__(self, name: str, engine: Engine, *, slots: int, max_queue: int, meter: ModelMeter) -> None:
        self.name, self.engine, self.slots, self.max_queue, self.meter = name, engine, slots, max_queue, meter
        self._changed = threading.Condition()
        self._waiting: deque[Seat] = deque()
        self._cancelled: list[Seat] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._ending = False
        self._inside = 0  # generations that were asked for and have not ended
        self.trouble: str | None = None  # why no session can be made
        # From here on only the worker's thread's.
        self._session: Session | None = None
        self._pause, self._again = _PAUSE_SECONDS[0], 0.0  # seconds; when (monotonic) it may be tried again
        self._live: dict[int, Seat] = {}
        self._news: list[Seat] = []
        self._post: list[News] = []
        self._thread = threading.Thread(target=self._run, name=f"luopan-{name}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Fail what is left with a 503 and end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def inside(self) -> int:
        """How many generations run or wait."""
        return self._inside

    def check_count(self, count: int, *, least: int = 0) -> None:
        """ApiError 400 for more generations in one request than could ever be taken (`least`: so many always can)."""
        capacity = max(least, self.slots + self.max_queue)
        if count > capacity:
            raise ApiError(400, f"{count} generations in one request; this server takes {capacity} at most")

    def submit(self, asks: Sequence[Ask]) -> Ticket:
        """Ask for generations, all or none: ApiError 429 where they would wait behind too many others."""
        ticket = Ticket(asks)
        now = time.perf_counter()
        with self._changed:
            if self._ending:
                raise ApiError(503, "the server is ending", code="draining")
            self.check_count(len(asks))
            if self.trouble is not None:
                raise ApiError(500, self.trouble)
            if self._inside + len(asks) > self.slots + self.max_queue:
                message = f"too many requests: {self._inside} are running or waiting; try again later"
                raise too_many(message)
            self._inside += len(asks)
            for seat in ticket.seats:
                seat.came = now
            self._waiting.extend(ticket.seats)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket, index: int | None = None) -> None:
        """End one generation, or all that are left, without further news."""
        gone = [ticket.seats[i] for i in list(ticket.open) if index is None or i == index]
        ticket.open.difference_update(seat.index for seat in gone)
        if gone:
            with self._changed:
                self._cancelled += gone
                self._changed.notify()

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` gives, run between two steps, where it has the model for itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def job() -> None:
            result: T | None = None
            error: Exception | None = None
            if self._ending:
                error = ApiError(503, "the server is ending", code="draining")
            elif not future.cancelled():
                try:
                    result = function()
                except Exception as caught:
                    error = _as_api_error(caught)
            self._to_loop(loop, settle, result, error)

        with self._changed:
            if self._ending:
                raise ApiError(503, "the server is ending", code="draining")
            if len(self._jobs) >= max(1, self.max_queue):
                raise too_many("too many requests; try again later")
            self._jobs.append(job)
            self._changed.notify()
        return await future

    async def replace(self, function: Callable[[], None]) -> None:
        """Run what changes the model's weights, with nothing of the old ones kept; ApiError 503 while requests run."""

        def alone() -> None:
            if self._inside:
                raise ApiError(503, f"{self._inside} requests are running or waiting", headers={"Retry-After": "1"})
            self._session = None  # it holds keys and values of prompts, and copies of weights
            function()

        await self.call(alone)

    # The worker's thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                if self.trouble is not None:
                    left = self._again - time.monotonic()
                    self._changed.wait_for(lambda: self._ending or self._jobs or self._cancelled, max(0.0, left))
                while not (self._busy or self._ending):
                    self._changed.wait()
                if self._ending:
                    break
            try:
                self._turn()
            except Exception as error:
                self._fail(error)
            self._hand_over()
        self._fail(ApiError(503, "the server ended before the answer was whole", code="draining"), everything=True)
        self._hand_over()
        self._session = None

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._cancelled or self._jobs or self._live or self.trouble)

    def _turn(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
            job = self._jobs.popleft() if self._jobs else None
        for seat in cancelled:
            self._drop(seat)
        if job is not None:
            job()
        if not self._open():
            return
        assert self._session is not None
        self._admit(self._session)
        if not self._live:
            return
        self._session.step(self._listen)
        for number in list(self._session.finished):
            completion = self._session.finished.pop(number)
            if number in self._live:
                seat = self._live.pop(number)
                self._leave(seat)
                self._post.append(News(seat, self._taken(seat), completion.finish_reason, None))

    def _open(self) -> bool:
        """Whether there is a session, or one could be made. Where none can, nobody is left to wait for it."""
        if self._session is not None:
            return True
        if time.monotonic() < self._again:
            return False
        try:
            self._session = self.engine.session(self.slots)
        except Exception as error:
            pause = min(_PAUSE_SECONDS[1], 2 * self._pause if self.trouble else _PAUSE_SECONDS[0])
            self._pause, self._again = pause, time.monotonic() + pause
            _LOG.error("%s: no session can be made; again in %.1f s", self.name, pause, exc_info=error)
            with self._changed:
                self.trouble = f"{self.name} cannot run at present: {type(error).__name__}"
                lost = list(self._waiting)
                self._waiting.clear()
            self._lose(lost, ApiError(500, self.trouble))
            return False
        if self.trouble is not None:
            _LOG.warning("%s: a session could be made again", self.name)
            self.trouble = None
        return True

    def _lose(self, seats: Sequence[Seat], told: ApiError) -> None:
        for seat in seats:
            seat.heard, seat.told = [], False
            self._leave(seat)
            self._post.append(News(seat, [], None, told))

    def _admit(self, session: Session) -> None:
        """Hand waiting requests to the session: as many as have a slot, and an eighth more, so that it can read
        several prompts in one pass when slots become free."""
        room = self.slots + max(1, self.slots // 8)
        while len(self._live) < room:
            with self._changed:
                if not self._waiting:
                    return
                seat = self._waiting.popleft()
            ask = seat.ask
            extra = {} if ask.constraint is None else {"constraint": ask.constraint}
            try:
                seat.number = session.add(ask.prompt, ask.params, seed=ask.seed, key=ask.key, **extra)
            except Exception as error:
                self._leave(seat)
                self._post.append(News(seat, [], None, _as_api_error(error)))
            else:
                self._live[seat.number] = seat

    def _listen(self, number: int, token: int, logprob: float) -> bool:
        seat = self._live[number]
        top = None
        if seat.ask.tops:
            assert self._session is not None
            top = list(self._session.top_logprobs(number)[-1])
        seat.heard.append(Heard(token, logprob, top))
        if not seat.told:
            seat.told = True
            self._news.append(seat)
        return False

    def _drop(self, seat: Seat) -> None:
        """Take a cancelled generation out, wherever it is by now."""
        if seat.number is None:
            with self._changed:
                if seat not in self._waiting:
                    return  # it has ended
                self._waiting.remove(seat)
        elif self._live.get(seat.number) is not seat or self._session is None:
            return  # it has ended; by now the number may be another's, in another session
        else:
            del self._live[seat.number]
            self._session.cancel(seat.number)
            self._session.finished.pop(seat.number, None)
        self._leave(seat)
        self.meter.cancelled.inc()

    def _fail(self, error: Exception, *, everything: bool = False) -> None:
        """A step failed: so do the requests of its session, which is not to be trusted any more."""
        if not everything:
            _LOG.error("%s: a step failed, %d requests with it", self.name, len(self._live), exc_info=error)
        lost = list(self._live.values())
        if everything:
            with self._changed:
                lost += self._waiting
                self._waiting.clear()
                jobs, self._jobs = list(self._jobs), deque()
            for job in jobs:
                job()
        self._lose(lost, _as_api_error(error))
        self._live.clear()
        self._session = None

    def _leave(self, seat: Seat) -> None:
        with self._changed:
            self._inside -= 1

    def _taken(self, seat: Seat) -> list[Heard]:
        """The tokens of a seat that nobody has been told, timed."""
        heard, seat.heard, seat.told = seat.heard, [], False
        if heard:
            now = time.perf_counter()
            self.meter.heard(len(heard), len(seat.ask.prompt), now - (seat.last or seat.came), first=seat.last is None)
            seat.last = now
            seat.count += len(heard)
        return heard

    def _hand_over(self) -> None:
        """Send what is new to the event loop, in one call for each."""
        news, self._news = self._news, []
        ended, self._post = self._post, []
        try:
            batch = [News(seat, self._taken(seat), None, None) for seat in news if seat.told] + ended
            batch = [item for item in batch if item.heard or item.reason or item.error]
            live = len(self._live)
            self.meter.state(min(live, self.slots), max(0, self._inside - live), self._held_tokens())
        except Exception as error:  # nobody is left without an answer, nor the model without its thread
            self._fail(error)
            told = _as_api_error(error)
            batch = [News(item.seat, [], None, told) for item in ended] + self._post
            self._post = []
        for loop, items in itertools.groupby(batch, key=lambda item: item.seat.ticket.loop):
            self._to_loop(loop, _deliver, list(items))

    def _held_tokens(self) -> int:
        begun = (seat for seat in self._live.values() if seat.count)
        return sum(len(seat.ask.prompt) + seat.count for seat in begun)

    def _to_loop(self, loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to hear it
            return


def _deliver(batch: Sequence[News]) -> None:
    for news in batch:
        news.seat.ticket.deliver(news)


def _as_api_error(error: Exception) -> ApiError:
    """The client's fault as a 400; anything else as a 500 that does not tell our insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, LuopanError):
        return from_luopan(error)
    return ApiError(500, f"the server failed while it made the answer: {type(error).__name__}")
