"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from luopan.serve.answers import Answer, Update, answer_parser, gathered
from luopan.serve.desk import Desk, follow, unless_gone
from luopan.serve.frame import LEAST_LOGPROB, Frame
from luopan.serve.prepare import Prepared, chat, generations
from luopan.serve.protocol import ChatRequest
from luopan.serve.responses import ERRORS, ChatCompletion
from luopan.serve.stream import EventStream
from luopan.serve.ticket import Heard
from luopan.serve.token_bytes import TokenBytes


def chat_router(desk: Desk) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation; with `stream`, piece by piece as server-sent events that end with `[DONE]`."""
        served, worker = desk.find(body.model)
        deadline = desk.deadline()
        worker.check_count(generations(body))
        prepared = await unless_gone(request, desk.prepare(chat, served, body), deadline)
        writer = _Writer(body, prepared, desk.bytes[body.model])
        answers = [
            Answer(
                answer_parser(served.generator.tokenizer, prepared),
                prepared.ends,
                desk.bytes[body.model],
                first_call_only=body.parallel_tool_calls is False,
            )
            for _ in prepared.asks
        ]
        ticket = worker.submit(prepared.asks)
        source = follow(worker, ticket, answers, deadline)
        if not body.stream:
            updates = await unless_gone(request, gathered(source, len(answers)))
            return JSONResponse(writer.frame.whole([writer.choice(*one) for one in enumerate(updates)], answers))
        # Nothing is sent before the first token has come, so that what fails until then still has its HTTP status.
        first = await unless_gone(request, anext(source))
        return EventStream(_streamed(first, source, answers, writer))

    return router


async def _streamed(
    first: tuple[int, Update],
    source: AsyncGenerator[tuple[int, Update], None],
    answers: Sequence[Answer],
    writer: _Writer,
) -> AsyncGenerator[bytes, None]:
    async with aclosing(source) as updates:
        for index in range(len(answers)):
            yield writer.chunk(index, {"role": "assistant", "content": ""})
        for chunk in writer.chunks(*first):
            yield chunk
        async for index, update in updates:
            for chunk in writer.chunks(index, update):
                yield chunk
    yield writer.frame.end(answers)


class _Writer:
    """Writes one request's answers down."""

    def __init__(self, body: ChatRequest, prepared: Prepared, token_bytes: TokenBytes) -> None:
        self.prepared, self._bytes = prepared, token_bytes
        self.frame = Frame(body, prepared, "chatcmpl", whole="chat.completion", piece="chat.completion.chunk")
        self._calls = [0] * len(prepared.asks)

    def choice(self, index: int, update: Update) -> dict[str, Any]:
        """A whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": update.text, "refusal": None}
        if update.calls:
            message["tool_calls"] = [_call(call) for call in update.calls]
            message["content"] = update.text or None
        if update.thinking:
            message["reasoning_content"] = update.thinking
        return {
            "index": index, "message": message, "logprobs": self._logprobs(update.heard),
            "finish_reason": update.finish_reason,
        }  # fmt: skip

    def chunks(self, index: int, update: Update) -> list[bytes]:
        """The events for what is new of an answer."""
        found = []
        if update.thinking:
            found.append(self.chunk(index, {"reasoning_content": update.thinking}))
        if update.text or (update.heard and self.prepared.logprobs):
            found.append(self.chunk(index, {"content": update.text}, heard=update.heard))
        for call in update.calls:
            found.append(self.chunk(index, {"tool_calls": [{"index": self._calls[index], **_call(call)}]}))
            self._calls[index] += 1
        if update.finish_reason is not None:
            found.append(self.chunk(index, {}, reason=update.finish_reason))
        return found

    def chunk(
        self, index: int, delta: dict[str, Any], *, heard: Sequence[Heard] = (), reason: str | None = None
    ) -> bytes:
        """One event."""
        logprobs = self._logprobs(heard) if heard else None
        return self.frame.piece({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})

    def _logprobs(self, heard: Sequence[Heard]) -> dict[str, Any] | None:
        if not self.prepared.logprobs:
            return None
        return {"content": [self._entry(item) for item in heard], "refusal": None}

    def _entry(self, item: Heard) -> dict[str, Any]:
        top = [self._token(token, logprob) for token, logprob in (item.top or [])[: self.prepared.top_logprobs]]
        return {**self._token(item.token, item.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._bytes[token]
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(data)}


def _call(call: Any) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
