"""Runs the app: the port is taken before models are read, and the end is orderly.

Told to end (SIGTERM, Ctrl-C), the server answers new requests with 503 and goes on listening, so that whoever balances
the load sees it, until what runs is done or `drain_seconds` are over; what is left then is ended with an error. Told a
second time, it ends at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from luopan.errors import LuopanError
from luopan.generate.speculation import Speculation
from luopan.generate.weights import Precision, Quantise
from luopan.serve.app import create_app
from luopan.serve.config import ServeSettings
from luopan.serve.models import ModelLoader, served_names

_GRACE_SECONDS = 3  # for connections to close once there is nothing to be done any more


class ServeError(LuopanError):
    """The server cannot start."""


class Server(uvicorn.Server):
    """uvicorn's server, with an end of our own. `ended_by`: the signal that ended it."""

    def __init__(
        self, app: FastAPI, settings: ServeSettings, said: Callable[[str], None], ready: Callable[[], None]
    ) -> None:
        super().__init__(http_config(app))
        self.ended_by: int | None = None
        self._settings, self._said, self._ready = settings, said, ready
        self._gate, self._desk = app.state.gate, app.state.desk
        self._drain_until: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, and then the word that it has begun."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: begin to drain; a second one: end at once."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self.ended_by = sig
        self.drain()

    def drain(self) -> None:
        """Take nothing new; end when what runs is done, or its time is over."""
        self._gate.draining = True
        self._drain_until = time.monotonic() + self._settings.drain_seconds
        if self._gate.active:
            seconds = self._settings.drain_seconds
            self._said(f"ending: {self._gate.active} running requests have {seconds:g} s (again: end at once)")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._drain_until is not None and not self.should_exit:
            late = time.monotonic() >= self._drain_until
            if late and self._gate.active:
                await asyncio.to_thread(self._desk.stop)
            self.should_exit = late or not self._gate.active
        return await super().on_tick(counter)


def http_config(app: FastAPI) -> uvicorn.Config:
    """How HTTP is spoken. Connections are kept longer than clients keep them (5 s in httpx): whoever closes an idle one
    while the other sends a request on it breaks that request."""
    return uvicorn.Config(
        app, lifespan="on", log_level="warning", access_log=False, server_header=False,
        timeout_keep_alive=60, timeout_graceful_shutdown=_GRACE_SECONDS,
    )  # fmt: skip


def serve_models(
    models: Sequence[str],
    settings: ServeSettings,
    *,
    find: Callable[[str], Path],
    default_sampling: Callable[[str], Mapping[str, Any]],
    names: Sequence[str] = (),
    device: str | None = None,
    dtype: Precision = "float32",
    quantize: Quantise | None = None,
    speculation: Speculation | None = None,
    said: Callable[[str], None],
) -> int:
    """Serve MODELs until told to end; the exit code. `find`, `default_sampling`: as in `pipeline.models`.

    LuopanError for models that cannot be read, names that cannot be told apart, an address that cannot be had.
    """
    from luopan.train.device import pick_device

    called = served_names(models, names)
    with listen(settings) as sock:
        place = checked_device(device) if device else pick_device()
        loader = ModelLoader(
            find, device=place, max_batch=settings.max_batch, dtype=dtype, quantize=quantize, speculation=speculation
        )
        served = [loader.load(model, name, default_sampling) for model, name in zip(models, called, strict=True)]
        settings = settings.model_copy(update={"port": sock.getsockname()[1]})
        if not settings.loopback and settings.api_key is None:
            said(f"warning: whoever reaches {settings.host} may use this server; --api-key KEY asks for a key")
        app = create_app(served, settings)
        server = Server(app, settings, said, lambda: said(_greeting(settings, called)))
        server.run([sock])
    return 130 if server.ended_by == signal.SIGINT else 0


def checked_device(name: str) -> torch.device:
    """The device of this name; ServeError where there is none."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ServeError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


def listen(settings: ServeSettings) -> socket.socket:
    """A socket at the server's address; ServeError where it is taken or is none of this machine's."""
    host, port = settings.host, settings.port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ServeError(
            f"there is no address {host!r}", hint="--host takes a name or an address of this machine"
        ) from None
    sock = socket.socket(family, kind, proto)
    try:
        if os.name != "nt":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        known = {
            errno.EADDRINUSE: (f"port {port} of {host} is taken", "Choose another with --port, or 0 for any free one."),
            errno.EACCES: (f"port {port} needs more rights", "Choose one above 1023 with --port."),
            errno.EADDRNOTAVAIL: (
                f"{host} is no address of this machine",
                "127.0.0.1 is this machine, 0.0.0.0 all of it.",
            ),
        }
        message, hint = known.get(error.errno or 0, (f"cannot listen on {host}:{port}: {error.strerror}", None))
        raise ServeError(message, hint=hint) from None
    return sock


def _greeting(settings: ServeSettings, names: Sequence[str]) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    address = f"http://{host}:{settings.port}"
    key = ' -H "Authorization: Bearer $LUOPAN_API_KEY"' if settings.api_key else ""
    body = f'{{"model": "{names[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    lines = [
        f"serving {', '.join(names)} at {address}/v1 (Ctrl-C ends it)",
        *([f"the page: {address}/"] if settings.page else []),
        f"curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
    ]
    return "\n".join(lines)
