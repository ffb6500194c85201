"""`POST /v1/completions`: texts, or tokens, to be continued."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from luopan.serve.answers import Answer, PlainText, Update, gathered
from luopan.serve.bounded import MAX_PROMPTS
from luopan.serve.desk import Desk, follow, unless_gone
from luopan.serve.frame import LEAST_LOGPROB, Frame
from luopan.serve.models import ServedModel
from luopan.serve.prepare import Prepared, completion, generations
from luopan.serve.protocol import CompletionRequest
from luopan.serve.responses import ERRORS, Completion
from luopan.serve.scoring import prompt_logprobs
from luopan.serve.stream import EventStream
from luopan.serve.ticket import Heard
from luopan.serve.token_bytes import TokenBytes
from luopan.serve.worker import Worker


def completion_router(desk: Desk) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion, responses=ERRORS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text; with `stream`, piece by piece as server-sent events that end with `[DONE]`."""
        served, worker = desk.find(body.model)
        deadline = desk.deadline()
        # A prompt that is only scored has no generation; its answers are bounded all the same.
        worker.check_count(generations(body), least=MAX_PROMPTS if body.max_tokens == 0 else 0)
        prepared = await unless_gone(request, desk.prepare(completion, served, body), deadline)
        tokenizer = served.generator.tokenizer
        token_bytes = desk.bytes[body.model]
        writer = _Writer(body, prepared, token_bytes)
        if body.echo:
            writer.echoes = await unless_gone(request, _echoes(served, worker, prepared), deadline)
        if body.prompt_logprobs is not None:
            writer.prompt_told = await unless_gone(
                request, _prompt_told(served, worker, prepared, body.prompt_logprobs), deadline
            )
        answers = [Answer(PlainText(tokenizer, prepared.stop), prepared.ends, token_bytes) for _ in prepared.asks]
        source = follow(worker, worker.submit(prepared.asks), answers, deadline) if answers else _nothing(prepared)
        if not body.stream:
            updates = await unless_gone(request, gathered(source, len(prepared.prompts) * prepared.per_prompt))
            if body.return_token_ids:
                for at, answer in enumerate(answers):
                    updates[at].heard = answer.heard
            chosen = [writer.choice(place, at, updates[at]) for place, at in enumerate(writer.best(answers))]
            return JSONResponse(writer.frame.whole(chosen, answers))
        first = await unless_gone(request, anext(source))
        return EventStream(_streamed(first, source, answers, writer))

    return router


@dataclass(frozen=True)
class _Echo:
    """A prompt to be repeated; `heard`: its tokens after the first, where their log-probabilities were asked for."""

    text: str
    first: int
    heard: list[Heard]


async def _echoes(served: ServedModel, worker: Worker, prepared: Prepared) -> list[_Echo]:
    found = []
    for text, ids in zip(prepared.texts, prepared.prompts, strict=True):
        heard: list[Heard] = []
        if prepared.logprobs:
            score = partial(prompt_logprobs, served.generator.model, ids, prepared.top_logprobs)
            heard = await worker.call(score)
        found.append(_Echo(text, ids[0], heard))
    return found


async def _prompt_told(served: ServedModel, worker: Worker, prepared: Prepared, top: int) -> list[list[Heard]]:
    """The tokens of each prompt after its first, and the likeliest in their places."""
    return [await worker.call(partial(prompt_logprobs, served.generator.model, ids, top)) for ids in prepared.prompts]


async def _nothing(prepared: Prepared) -> AsyncGenerator[tuple[int, Update], None]:
    """The answers where only the prompt is repeated."""
    for index in range(len(prepared.prompts) * prepared.per_prompt):
        yield index, Update(finish_reason="length")


async def _streamed(
    first: tuple[int, Update],
    source: AsyncGenerator[tuple[int, Update], None],
    answers: Sequence[Answer],
    writer: _Writer,
) -> AsyncGenerator[bytes, None]:
    async with aclosing(source) as updates:
        yield writer.chunk(*first)
        async for index, update in updates:
            yield writer.chunk(index, update)
    yield writer.frame.end(answers)


class _Writer:
    """Writes one request's answers down. With `echo` the prompt stands before each."""

    def __init__(self, body: CompletionRequest, prepared: Prepared, token_bytes: TokenBytes) -> None:
        self.prepared, self._bytes, self._n = prepared, token_bytes, body.n or 1
        self._told = bool(body.return_token_ids)
        self.frame = Frame(body, prepared, "cmpl", whole="text_completion", piece="text_completion")
        self.echoes: list[_Echo] = []
        self.prompt_told: list[list[Heard]] | None = None
        self._echoed: set[int] = set()
        self._offsets = [0] * (len(prepared.prompts) * prepared.per_prompt)

    def best(self, answers: Sequence[Answer]) -> list[int]:
        """Which answers are given: of each prompt the n with the highest mean log-probability, in that order; all in
        their own order where no more were made."""
        size = self.prepared.per_prompt
        groups = [list(range(at * size, (at + 1) * size)) for at in range(len(self.prepared.prompts))]
        if size == self._n or not answers:
            return [index for group in groups for index in group[: self._n]]
        ranked = [sorted(group, key=lambda index: -answers[index].mean_logprob) for group in groups]
        return [index for group in ranked for index in group[: self._n]]

    def choice(self, place: int, index: int, update: Update) -> dict[str, Any]:
        """One answer, or what is new of it; before the first of it the prompt, where that is repeated."""
        echo = self.echoes[index // self.prepared.per_prompt] if self.echoes and index not in self._echoed else None
        self._echoed.add(index)
        choice = {
            "index": place,
            "text": (echo.text if echo else "") + update.text,
            "logprobs": self._logprobs(index, update.heard, echo),
            "finish_reason": update.finish_reason,
        }
        if self._told:
            choice["token_ids"] = [item.token for item in update.heard]
        if self.prompt_told is not None:
            heard = self.prompt_told[index // self.prepared.per_prompt]
            choice["prompt_logprobs"] = [None, *map(self._by_number, heard)]
        return choice

    def chunk(self, index: int, update: Update) -> bytes:
        """One event."""
        return self.frame.piece(self.choice(index, index, update))

    def _logprobs(self, index: int, heard: Sequence[Heard], echo: _Echo | None) -> dict[str, Any] | None:
        if not self.prepared.logprobs:
            return None
        told = [*(echo.heard if echo else []), *heard]
        logprobs: list[float | None] = [max(item.logprob, LEAST_LOGPROB) for item in told]
        top: list[dict[str, float] | None] = [self._likeliest(item) for item in told]
        tokens = [item.token for item in told]
        if echo is not None:  # nothing comes before a prompt's first token
            tokens, logprobs, top = [echo.first, *tokens], [None, *logprobs], [None, *top]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += self._bytes.characters(token)
        return {
            "tokens": [self._bytes.name(token) for token in tokens],
            "token_logprobs": logprobs,
            "top_logprobs": top if self.prepared.top_logprobs else None,
            "text_offset": offsets,
        }

    def _by_number(self, item: Heard) -> dict[str, Any]:
        """The token that came and the likeliest in its place, as vLLM gives them."""
        ranked = {token: (place, logprob) for place, (token, logprob) in enumerate(item.top or [], 1)}
        ranked.setdefault(item.token, (None, item.logprob))  # type: ignore[arg-type]
        return {
            str(token): {
                "logprob": max(logprob, LEAST_LOGPROB), "rank": place, "decoded_token": self._bytes.name(token)
            }
            for token, (place, logprob) in ranked.items()
        }  # fmt: skip

    def _likeliest(self, item: Heard) -> dict[str, float]:
        """The likeliest tokens' texts; the one that came is always among them."""
        found = {self._bytes.name(token): max(logprob, LEAST_LOGPROB) for token, logprob in reversed(item.top or [])}
        return {**found, self._bytes.name(item.token): max(item.logprob, LEAST_LOGPROB)}
