"""What the routes share: the models by name with their workers, threads for preparation, deadlines, disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from luopan.serve.answers import Answer, Update
from luopan.serve.config import ServeSettings
from luopan.serve.errors import ApiError, too_many
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
        self.workers = {name: self._worker(model) for name, model in self.models.items()}
        self.bytes = {name: TokenBytes(model.generator.tokenizer) for name, model in self.models.items()}
        self.entries: Mapping[str, dict[str, Any]] = {name: model.entry() for name, model in self.models.items()}
        self._threads = ThreadPoolExecutor(_THREADS, "luopan-prepare")
        self._preparing = 0

    def _worker(self, model: ServedModel) -> Worker:
        engine = model.generator.engine
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
        if self._preparing >= max(16, self.settings.max_queue):
            raise too_many("too many requests; try again later")
        self._preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._preparing -= 1


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


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection: ClientGone."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
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
