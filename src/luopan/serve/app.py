"""The application: routes, the gate before them, errors, workers that live as long as it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luopan.serve import errors
from luopan.serve.chat import chat_router
from luopan.serve.completions import completion_router
from luopan.serve.config import ServeSettings
from luopan.serve.desk import Desk
from luopan.serve.embeddings import embedding_router
from luopan.serve.gate import Gate, GateState
from luopan.serve.listing import listing_router
from luopan.serve.metrics import Metrics
from luopan.serve.models import ServedModel
from luopan.serve.page import page_router
from luopan.serve.playground import playground_router
from luopan.serve.reload import reload_router
from luopan.serve.runs import runs_router
from luopan.serve.tally import tally_router


def create_app(models: Sequence[ServedModel], settings: ServeSettings) -> FastAPI:
    """An app for these models. Its workers start and end with it (ASGI's lifespan).

    `app.state.desk` has the workers and the metrics, `app.state.gate` whether it drains and what is being answered.
    """
    desk, gate = Desk(models, settings), GateState()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        desk.start()
        try:
            yield
        finally:
            await asyncio.to_thread(desk.stop)

    # The interactive pages of FastAPI load scripts from elsewhere; the schema itself is served.
    app = FastAPI(title="Luopan", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.desk, app.state.gate = desk, gate
    errors.install(app)
    app.include_router(chat_router(desk))
    app.include_router(completion_router(desk))
    app.include_router(embedding_router(desk))
    app.include_router(listing_router(desk, gate))
    if settings.reload_from is not None:
        app.include_router(reload_router(desk, settings.reload_from))
    if settings.page:
        _mount_page(app, desk, settings)
    app.add_middleware(Gate, settings=settings, state=gate)
    app.add_middleware(Counted, metrics=desk.metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _mount_page(app: FastAPI, desk: Desk, settings: ServeSettings) -> None:
    """The page's files, and what it asks beside the API."""
    tokenizers = {name: model.generator.tokenizer for name, model in desk.models.items()}
    app.include_router(page_router(settings))
    app.include_router(playground_router(tokenizers))
    app.include_router(runs_router(settings.runs))
    app.include_router(tally_router(settings.votes))


class Counted:
    """ASGI middleware that counts requests and times them, by route; all that is no part of the API counts as one."""

    routes = frozenset(
        ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/health", "/metrics")
    )

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 499  # nothing was sent
        began = time.perf_counter()

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
