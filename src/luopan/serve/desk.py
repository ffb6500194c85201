"""What the routes share: the models by name with their workers, threads for preparation, deadlines, disconnects."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from starlette.requests import Request

from luopan.generate.engine import Engine, free_memory
from luopan.serve.answers import Answer, Update
from luopan.serve.config import GIB, ServeSettings
from luopan.serve.errors import ApiError, too_late, too_many
from luopan.serve.metrics import Metrics
from luopan.serve.models import ServedModel
from luopan.serve.ticket import Ticket
from luopan.serve.token_bytes import TokenBytes
from luopan.serve.worker import Worker

T = TypeVar("T")
_THREADS = 2


class ClientGone(ApiError):
    """The client closed its connection; what is answered nobody reads (nginx's 499)."""

    def __init__(self) -> None:
        super().__init__(499, "the client closed the connection")


class Desk:
    """One for each app."""

    def __init__(self, models: Sequence[ServedModel], settings: ServeSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.models = {model.name: model for model in models}
        assert len(self.models) == len(models), "models of the same name"
        shares = cache_shares([model.generator.engine for model in models], settings)
        self.workers = {model.name: self._worker(model, share) for model, share in zip(models, shares, strict=True)}
        self.bytes = {name: TokenBytes(model.generator.tokenizer) for name, model in self.models.items()}
        self.entries: Mapping[str, dict[str, Any]] = {name: model.entry() for name, model in self.models.items()}
        self._threads = ThreadPoolExecutor(_THREADS, "luopan-prepare")
        self._preparing, self._counting = 0, Lock()

    def _worker(self, model: ServedModel, share: int) -> Worker:
        engine = copy.copy(model.generator.engine)  # it holds nothing but what it was told
        engine.max_cache_bytes = share
        slots = min(self.settings.max_batch, engine.max_batch)
        held = min(engine.room(), slots * engine.context)
        meter = self.metrics.of(model.name, held)
        return Worker(model.name, engine, slots=slots, max_queue=self.settings.max_queue, meter=meter)

    def start(self) -> None:
        """Start the workers."""
        for worker in self.workers.values():
            worker.start()

    def stop(self) -> None:
        """Fail what still runs and end all threads."""
        for worker in self.workers.values():
            worker.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def find(self, name: str) -> tuple[ServedModel, Worker]:
        """The model of this name; ApiError 404 that lists the names there are."""
        if name not in self.models:
            there = ", ".join(self.models)
            message = f"the model {name[:200]!r} does not exist here; there are: {there}"
            raise ApiError(404, message, param="model", code="model_not_found", kind="invalid_request_error")
        return self.models[name], self.workers[name]

    def deadline(self) -> float:
        """When a request that comes now must be done, by the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.request_timeout

    async def prepare(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what takes a while in a thread beside the event loop; ApiError 429 where too many wait for that."""
        with self._counting:
            if self._preparing >= max(16, self.settings.max_queue):
                raise too_many("too many requests; try again later")
            self._preparing += 1
        work = self._threads.submit(function, *arguments)
        work.add_done_callback(self._prepared)  # one whose client is gone keeps its thread until it is done
        return await asyncio.wrap_future(work)

    def _prepared(self, _work: Future[Any]) -> None:
        with self._counting:
            self._preparing -= 1


def cache_shares(engines: Sequence[Engine], settings: ServeSettings) -> list[int]:
    """Bytes of keys and values for each engine: `max_cache_gb`, or half of what its device has free, divided among all
    there. None gets more than all its slots can fill; what that leaves goes to the others. A bound that an engine
    brings along holds besides."""
    devices = [next(engine.model.parameters()).device for engine in engines]
    shares = [0] * len(engines)
    groups: list[list[int]] = []
    if settings.max_cache_gb is not None:
        groups = [list(range(len(engines)))]
    else:
        groups = [[i for i, one in enumerate(devices) if one == device] for device in dict.fromkeys(devices)]
    for group in groups:
        given = settings.max_cache_gb
        left = free_memory(devices[group[0]]) // 2 if given is None else int(given * GIB)
        needs = {i: _most_bytes(engines[i], settings) for i in group}
        for place, i in enumerate(sorted(group, key=needs.__getitem__)):
            shares[i] = max(1, min(needs[i], left // (len(group) - place)))
            left -= shares[i]
    return shares


def _most_bytes(engine: Engine, settings: ServeSettings) -> int:
    """What the keys and values of all its slots take when every context is full."""
    most = min(settings.max_batch, engine.max_batch) * engine.context * engine.bytes_per_token
    return most if engine.max_cache_bytes is None else min(most, engine.max_cache_bytes)


async def follow(
    worker: Worker, ticket: Ticket, answers: Sequence[Answer], deadline: float
) -> AsyncGenerator[tuple[int, Update], None]:
    """What becomes of the generations, as it comes: (which, what is new). Closed early, it cancels what is left."""
    try:
        while ticket.open:
            for news in await ticket.news(deadline):
                index = news.seat.index
                update = answers[index].take(news.heard, news.reason)
                if answers[index].done and news.reason is None:
                    worker.cancel(ticket, index)
                if not update.empty:
                    yield index, update
    finally:
        worker.cancel(ticket)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T], deadline: float | None = None) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection (ClientGone), or at the
    deadline, by the loop's clock (ApiError 504)."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(gone(request.receive))
    try:
        left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.wait({task, watch}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone if watch.done() else too_late()
        return task.result()
    finally:
        for one in (task, watch):
            if not one.done():
                one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Waits until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
