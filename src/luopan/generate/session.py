"""Requests that come and go, through one cached decoding loop.

Prompts that wait are read longest first among those that came together, several at once, equal ones once (a group of
rollouts shares its prompt), and what they begin with in common is read once too; long ones in pieces, between which
those that run go on. Running requests take one token per step together; those that end, or are cancelled, leave the
batch at once and waiting ones come in, as far as there is room for their keys and values.
"""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from luopan.errors import DataError, ModelError
from luopan.generate.completion import Completion, FinishReason, OnToken
from luopan.generate.config import SamplingParams
from luopan.generate.constraint import Constraint
from luopan.generate.rows import Likeliest, Request, Rows
from luopan.generate.speculation import Draft

if TYPE_CHECKING:
    from luopan.generate.engine import Engine

# So many prompt tokens are read between two steps of those that run: what a step of theirs takes, some times over.
_PIECE = 512


class Session:
    """Waiting requests, running ones, finished ones. For one thread; `step` does the work.

    `finished` {number: completion} holds what has ended until it is taken out. The room of a slot grows with the
    longest request; so does that of all others.
    """

    def __init__(self, engine: Engine, slots: int, positions: int) -> None:
        self.engine, self.slots = engine, slots
        self.finished: dict[int, Completion] = {}
        # Popped from the end: those that came together longest first, so that neighbours have similar lengths and equal
        # prompts stand together; before them those that came earlier.
        self.waiting: list[Request] = []
        self._came: dict[int, int] = {}  # step at which a waiting request came
        self._steps = self._count = 0
        self._reading: list[Request] = []  # and of each of them the number of its prompt among the distinct ones
        self._source: list[int] = []
        self._dropped: set[int] = set()  # cancelled while being read
        self.device = next(engine.model.parameters()).device
        with torch.inference_mode():
            self.most = engine.room()
            self.runner = engine.new_runner(slots, positions, self.most)
            self.rows = Rows(slots, engine.model.config.vocab_size, engine.ends())
        self.draft = None if engine.speculation is None else engine.speculation.start()
        self.guessed = self.accepted = 0  # tokens of drafts, and those of them that were right

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        seed: int | None = None,
        key: int = 0,
        where: object | None = None,
        constraint: Constraint | None = None,
    ) -> int:
        """Ask for a completion: the request's number, by which listeners and `finished` know it.

        Its random numbers are those of (seed, key); without a seed that of the parameters, or one that is drawn.
        `where` says in errors which request it is. `constraint` is this request's alone and moves along with it.
        DataError for a prompt, RecipeError for parameters that cannot be used.
        """
        self.engine.check_prompt(prompt, where)
        self.engine.check_params(params, constraint)
        chosen = params.seed if seed is None else seed
        limit = min(params.max_new_tokens, self.engine.context - len(prompt))
        if len(prompt) + limit > self.most:
            each, have = self.engine.bytes_per_token, self.most * self.engine.bytes_per_token
            raise DataError(
                f"a prompt of {len(prompt)} tokens and an answer of up to {limit} need "
                f"{(len(prompt) + limit) * each:,} bytes of keys and values, and {have:,} may be used",
                where=where,
                hint="ask for fewer tokens (max_new_tokens), or raise max_cache_bytes",
            )
        chosen = secrets.randbits(63) if chosen is None else chosen
        request = Request(self._count, list(prompt), params, chosen, key, limit, constraint)
        self._count += 1
        self._came[request.number] = self._steps
        bisect.insort(self.waiting, request, key=self._place)
        return request.number

    def cancel(self, number: int) -> None:
        """End a request now, with what it has said so far; nothing where it has ended already."""
        for place, request in enumerate(self.waiting):
            if request.number == number:
                del self.waiting[place], self._came[number]
                self.finished[number] = Completion([], [], "cancelled")
                return
        if any(request.number == number for request in self._reading):
            self._dropped.add(number)  # it leaves when it has been read
            self.finished[number] = Completion([], [], "cancelled")
            if all(request.number in self._dropped for request in self._reading):
                self._dropped -= {request.number for request in self._reading}
                self._reading = []
                self.runner.abandon()
            return
        for row, request in enumerate(self.rows.asked):
            if request.number == number:
                with torch.inference_mode():
                    self._write_down(row, "cancelled")
                    self._close_gaps([row])
                return

    def top_logprobs(self, number: int) -> Likeliest:
        """The likeliest tokens at each place of a request so far, where it asked for them; the newest is the last."""
        done = self.finished.get(number)
        return self.rows.tops.get(number, []) if done is None else done.top_logprobs or []

    @property
    def unfinished(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self.waiting) or bool(self._reading) or self.rows.active > 0

    def step(self, on_token: OnToken | None = None) -> None:
        """Give every running request its next token, then let others in where there is room.

        In this order: however many come, those that run go on.
        """
        self._steps += 1
        # Inference mode is entered per step and not around the loop, so that it never leaks into a stream's consumer.
        with torch.inference_mode():
            running = self.rows.active
            if self.draft is not None and 0 < running <= self.draft.requests:
                self._speculate(self.draft, on_token)
            elif running:
                self._take(slice(0, running), self.runner.decode(self.rows.last[:running]), on_token)
            if not self._reading:
                self._begin()
            if self._reading:
                # Where others run, a long prompt is read in pieces, and they go on between them.
                budget = self.engine.max_prefill_tokens
                logits = self.runner.read(min(budget, _PIECE) if running else budget)
                if logits is not None:
                    self._take(*self._admit(logits), on_token)

    def _place(self, request: Request) -> tuple[int, int, Sequence[int], int]:
        return -self._came[request.number], len(request.prompt), request.prompt, -request.number

    def _begin(self) -> None:
        """Start reading waiting prompts, if there is room for them."""
        free = self.slots - self.rows.active
        # One prompt at a time would cost a pass over the weights each; wait until an eighth of the slots is free.
        if self.waiting and free >= min(len(self.waiting), max(1, self.slots // 8)):
            self._reading, distinct, self._source = self._next_group(free)
            if self._reading:
                self.runner.begin(distinct, self._source)

    def _admit(self, logits: Tensor) -> tuple[slice, Tensor]:
        """What has been read runs from now on: its rows, and the logits [n, V] after each."""
        self.runner.admit()
        rows = self.rows.admit(self._reading)
        self._reading = []
        return rows, logits[torch.tensor(self._source, device=self.device)]

    def _take(self, rows: slice, logits: Tensor, on_token: OnToken | None) -> None:
        tokens, logprobs = self.rows.take(rows, logits)
        self._finish(rows, tokens, logprobs, on_token)

    def _speculate(self, draft: Draft, on_token: OnToken | None) -> None:
        """Guess on for each request, see in one pass what the model says to that, and keep what it would have said.

        Each token is chosen from the model's own logits with the number that it would have been chosen with anyway;
        where it is the one that was guessed, the next logits are already there. So nothing changes but the time.
        """
        drafts = [self._guess(draft, row) for row in range(self.rows.active)]
        last = self.rows.last[: self.rows.active].tolist()
        each = self.runner.extend([[first, *rest] for first, rest in zip(last, drafts)])
        for row in reversed(range(len(drafts))):  # one that ends is replaced by the last, which is done by then
            self._verify(row, drafts[row], each[row], on_token)

    def _guess(self, draft: Draft, row: int) -> list[int]:
        request = self.rows.asked[row]
        count = int(self.rows.generated[row])
        said = self.rows.tokens[row, :count].tolist()

        def pick(logits: Tensor, ahead: int) -> int:
            return self.rows.guess(row, logits, ahead)

        return draft.propose(request.number, [*request.prompt, *said], request.limit - count - 1, pick)

    def _verify(self, row: int, guessed: list[int], logits: Tensor, on_token: OnToken | None) -> None:
        """Take the tokens of a row from logits [len(guessed) + 1, V], as long as they are the guessed ones."""
        one, number = slice(row, row + 1), self.rows.asked[row].number
        self.guessed += len(guessed)
        for place in range(len(guessed) + 1):
            tokens, logprobs = self.rows.take(one, logits[place : place + 1])
            right = place < len(guessed) and int(tokens) == guessed[place]
            self.accepted += right
            if not right:
                self.runner.rewind(row, len(guessed) - place)
            self._finish(one, tokens, logprobs, on_token)
            if not right or not self._runs(row, number):
                return

    def _runs(self, row: int, number: int) -> bool:
        return row < self.rows.active and self.rows.asked[row].number == number

    def _next_group(self, free: int) -> tuple[list[Request], list[Sequence[int]], list[int]]:
        """Requests to read together, their distinct prompts, and which of those each request has."""
        requests: list[Request] = []
        distinct: list[Sequence[int]] = []
        source: list[int] = []
        width = 0
        need = max((len(one.prompt) + one.limit for one in self.rows.asked), default=0)
        while self.waiting and len(requests) < free:
            prompt = self.waiting[-1].prompt
            need = max(need, len(prompt) + self.waiting[-1].limit)
            if (self.rows.active + len(requests) + 1) * need > self.most:
                break
            if not distinct or prompt != distinct[-1]:
                width = max(width, len(prompt))  # one that came later may be longer
                if distinct and (len(distinct) + 1) * width > self.engine.max_prefill_tokens:
                    break
                distinct.append(prompt)
            request = self.waiting.pop()
            del self._came[request.number]
            requests.append(request)
            source.append(len(distinct) - 1)
        return requests, distinct, source

    def _finish(self, rows: slice, tokens: Tensor, logprobs: Tensor, on_token: OnToken | None) -> None:
        """Take the requests that have ended out of the batch and close the gaps."""
        stopped = self.rows.ended(rows, tokens)  # [n]
        ended = stopped | (self.rows.generated[rows] >= self.rows.limit[rows])
        if self._dropped:
            ended |= torch.tensor(
                [request.number in self._dropped for request in self.rows.asked[rows]], device=ended.device
            )
        if on_token is not None:
            asked = self._tell(rows, tokens, logprobs, stopped, on_token)
            stopped, ended = stopped | asked, ended | asked
        broken = logprobs.isnan()
        if not bool((ended | broken).any()):
            return
        if bool(broken.any()):
            raise ModelError(
                "the model's output is not a number, so no token can be chosen",
                hint="its training has diverged or its weights are damaged; go back to an earlier checkpoint",
            )
        gone = (ended.nonzero()[:, 0] + rows.start).tolist()
        for row, by_stop in zip(gone, stopped[ended].tolist()):
            self._write_down(row, "stop" if by_stop else "length")
        self._close_gaps(gone)

    def _write_down(self, row: int, reason: FinishReason) -> None:
        number = self.rows.asked[row].number
        if number in self._dropped:
            self._dropped.discard(number)
            self.rows.tops.pop(number, None)
            return
        count = int(self.rows.generated[row])
        said = self.rows.tokens[row, :count].tolist(), self.rows.logprobs[row, :count].tolist()
        request = self.rows.asked[row]
        tops = self.rows.tops.pop(request.number, []) if request.params.top_logprobs else None
        self.finished[request.number] = Completion(*said, reason, tops)
        if self.draft is not None:
            self.draft.forget(request.number)

    def _close_gaps(self, gone: list[int]) -> None:
        """Move running requests from the end of the batch into the slots of those that are gone."""
        active = self.rows.active - len(gone)
        missing = set(gone)
        target = [row for row in gone if row < active]
        source = [row for row in range(active, self.rows.active) if row not in missing]
        self.rows.compact(source, target, active)
        self.runner.compact(source, target, active)

    def _tell(self, rows: slice, tokens: Tensor, logprobs: Tensor, stopped: Tensor, on_token: OnToken) -> Tensor:
        """Call the listener for each row; bool [n], which of them it wants to end."""
        numbers = [request.number for request in self.rows.asked[rows]]
        heard = zip(numbers, tokens.tolist(), logprobs.tolist())
        ends = [item[0] not in self._dropped and bool(on_token(*item)) for item in heard]
        return torch.tensor(ends, dtype=torch.bool, device=stopped.device)
