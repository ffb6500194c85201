"""The template playground over HTTP: shipped templates, models' templates, rendering and lint of any.

A template is code that came with a model or out of a text box. It is never run in the server's own process: see
`playground_worker`. One worker, one request at a time; a few may wait, the rest are told to come again (429).
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from threading import Lock, Semaphore
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerFast

from luopan.serve.bounded import Bounded
from luopan.serve.plain_http import Refusal, json_body, plain_router
from luopan.tokens.templates import TEMPLATES, identify, template_source

BODY_BYTES = 512 << 10
SOURCE_CHARACTERS = 200_000
RENDER_SECONDS, LINT_SECONDS = 5.0, 8.0
START_SECONDS = 120.0  # loading the libraries on a busy machine
WAITING = 8
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV")
Json = dict[str, Any]


class Ask(Bounded):
    """What to render or to look at. Either `source` or a model's own template; without a `tokenizer`, a stand-in."""

    model_config = ConfigDict(extra="forbid")
    source: str | None = Field(default=None, max_length=SOURCE_CHARACTERS)
    tokenizer: str | None = Field(default=None, max_length=300)
    messages: list[Json] = Field(fail_fast=True, default=[], max_length=1000)
    tools: list[Json] | None = Field(fail_fast=True, default=None, max_length=200)
    chat_template_kwargs: Json = Field(default={})
    prompt: bool = False
    train_on: Literal["assistant", "last_turn", "all"] = "assistant"


class RenderWorker:
    """The other process. Started with the first request, and again after one that had to be killed."""

    def __init__(self, tokenizers: Mapping[str, PreTrainedTokenizerFast]) -> None:
        self._tokenizers = dict(tokenizers)
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = Lock()
        self._room = Semaphore(WAITING)

    def ask(self, request: Json, seconds: float) -> Json:
        """The worker's answer. Raises Refusal: 400 for what the template does wrong, 429 where too many wait."""
        if not self._room.acquire(blocking=False):
            raise Refusal(429, "the playground is busy: try again in a moment", code="busy")
        try:
            with self._lock:
                self._start()
                answer = self._exchange({**request, "seconds": seconds}, seconds + 5.0)
        finally:
            self._room.release()
        if "error" in answer:
            code = "template_limit" if answer.get("kind") == "limit" else "template_error"
            raise Refusal(400, answer["error"], code=code)
        return answer

    def warm(self) -> None:
        """Start the process if there is none, so that the first rendering need not wait."""
        if self._lock.acquire(blocking=False):
            try:
                self._start()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process for good. A request that it is busy with fails at once."""
        self._closed = True
        if (process := self._process) is not None:
            _kill(process)
        with self._lock:
            self._stop()

    def _start(self) -> None:
        if self._closed:
            raise Refusal(503, "the server is ending", code="draining")
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "luopan.serve.playground_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            bufsize=0,
            start_new_session=True,  # it is killed with what it has forked, which holds the same pipes
        )
        weakref.finalize(self, _end, self._process)
        os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]  # it is a pipe
        self._send(pickle.dumps(self._tokenizers), START_SECONDS)
        self._receive(START_SECONDS)

    def _exchange(self, request: Json, seconds: float) -> Json:
        self._send(json.dumps(request).encode(), seconds)
        answer = json.loads(self._receive(seconds))
        assert isinstance(answer, dict)
        return answer

    def _send(self, data: bytes, seconds: float) -> None:
        """One message; a process that does not take it in time is killed."""
        assert self._process is not None and self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        deadline = time.monotonic() + seconds
        rest = memoryview(len(data).to_bytes(8, "big") + data)
        try:
            while rest:
                if not _ready(descriptor, select.POLLOUT, deadline - time.monotonic()):
                    raise TimeoutError
                with suppress(BlockingIOError):
                    rest = rest[os.write(descriptor, rest[: 1 << 16]) :]
        except OSError as error:  # a TimeoutError is one
            self._stop()
            raise Refusal(500, "the process that renders templates has ended: try again", code="worker") from error

    def _receive(self, seconds: float) -> bytes:
        """One message; a process that does not answer in time is killed."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        data = b""
        length = 8
        while len(data) < length:
            part = b""
            if _ready(descriptor, select.POLLIN, deadline - time.monotonic()):
                part = os.read(descriptor, min(1 << 16, length - len(data)))
            if not part:
                self._stop()
                raise Refusal(500, "the process that renders templates does not answer: try again", code="worker")
            data += part
            if length == 8 and len(data) == 8:
                length += int.from_bytes(data, "big")
        return data[8:]

    def _stop(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None


def worker_environment() -> dict[str, str]:
    """What the other process is told of ours: where things are, and none of the keys and tokens."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = os.pathsep.join(part for part in sys.path if part)
    told = {
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    return {**kept, **told, "PYTHONPATH": path}


def playground_router(tokenizers: Mapping[str, PreTrainedTokenizerFast]) -> APIRouter:
    """GET `/api/templates`, `/api/templates/source`; POST `/api/templates/render`, `/api/templates/lint`. The process
    that renders ends with the application (ASGI's lifespan)."""
    worker = RenderWorker(tokenizers)

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await run_in_threadpool(worker.close)

    router = plain_router(lifespan)

    @router.get("/api/templates")
    def list_templates() -> Json:
        from luopan.serve.playground_render import template_facts

        return {"templates": template_facts(), "models": [_model_facts(n, t) for n, t in tokenizers.items()]}

    @router.get("/api/templates/source")
    def source(
        shipped: Annotated[str, Query(max_length=300)] = "", model: Annotated[str, Query(max_length=300)] = ""
    ) -> Json:
        if shipped in TEMPLATES:
            return {"source": template_source(shipped)}
        if model in tokenizers and (text := _template_of(tokenizers[model])):
            return {"source": text}
        raise Refusal(404, f"there is no template {(shipped or model)!r}", code="not_found")

    @router.post("/api/templates/warm", status_code=204)
    def warm() -> None:
        worker.warm()

    @router.post("/api/templates/render")
    async def render(request: Request) -> Json:
        ask = await _ask(request, tokenizers)
        if not ask.messages:
            raise Refusal(400, "messages: the conversation is empty", param="messages", code="invalid_value")
        given = {**ask.model_dump(), "operation": "render"}
        return await run_in_threadpool(partial(worker.ask, given, RENDER_SECONDS))

    @router.post("/api/templates/lint")
    async def lint(request: Request) -> Json:
        ask = await _ask(request, tokenizers)
        given = {**ask.model_dump(include={"source", "tokenizer"}), "operation": "lint"}
        return await run_in_threadpool(partial(worker.ask, given, LINT_SECONDS))

    return router


async def _ask(request: Request, tokenizers: Mapping[str, PreTrainedTokenizerFast]) -> Ask:
    body = await json_body(request, BODY_BYTES)
    try:
        ask = Ask.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"{place}: {first['msg']}", param=place, code="invalid_value") from error
    if ask.tokenizer is not None and ask.tokenizer not in tokenizers:
        raise Refusal(404, f"there is no model {ask.tokenizer!r}", param="tokenizer", code="not_found")
    if ask.tokenizer is None and not ask.source:
        raise Refusal(400, "source: choose a template, or paste one", param="source", code="invalid_value")
    return ask


def _model_facts(name: str, tokenizer: PreTrainedTokenizerFast) -> Json:
    source = _template_of(tokenizer)
    known = identify(source) if source else None
    return {
        "name": name,
        "has_template": bool(source),
        "template": known.name if known else None,
        "vocabulary": len(tokenizer),
    }


def _template_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """Its template; of several named ones the default."""
    given = tokenizer.chat_template
    if isinstance(given, dict):
        given = given.get("default") or next(iter(given.values()), None)
    return given if isinstance(given, str) else ""


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    """Whether a pipe can be read or written in time. `poll`, because `select` takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(descriptor, event)
    return seconds > 0 and bool(poll.poll(1000 * seconds))


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                continue
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else its number may be another's by now
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
