"""Tokens in, tokens out: many requests of different lengths through one cached decoding loop.

A `Session` holds running requests, each with sampling parameters of its own, and takes new ones in as they come.
Prompts that wait are read longest first among those that came together, several at once, equal ones once (a group of
rollouts shares its prompt). Running requests take one token per step together; those that end, or are cancelled, leave
the batch at once and waiting ones come in. A request draws from its own random numbers, keyed by (seed, its key), so
what it says depends neither on its neighbours nor on their order (up to rounding, see `sampling`).

Limits: computation is in the model's own precision; no sharing of prefixes between prompts that are not equal; nothing
is kept from one session to the next.
"""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from luopan.errors import DataError, ModelError, RecipeError
from luopan.generate.cache import UNBOUNDED, SlotCache
from luopan.generate.config import SamplingParams
from luopan.generate.constraint import Constraint
from luopan.generate.native import build
from luopan.generate.native.binding import obstacle
from luopan.generate.native.runner import NativeRunner
from luopan.generate.rows import Likeliest, Request, Rows
from luopan.generate.runner import Runner, TorchRunner
from luopan.model.decoder import Decoder

FinishReason = Literal["stop", "length", "cancelled"]
# So many prompt tokens are read between two steps of those that run: what a step of theirs takes, some times over.
_PIECE = 512
OnToken = Callable[[int, int, float], bool | None]


@dataclass(frozen=True)
class Completion:
    """What one request generated.

    tokens: with the stop token that ended it, if one did (it is trained like the rest in reinforcement learning).
    logprobs: of each token under the distribution it was drawn from, filters and temperature included; for greedy
    decoding, where nothing is drawn, under the model's own at temperature 1. finish_reason: "stop" if a stop token (or
    a listener) ended it or its grammar is complete, "length" if the limit or the end of the context did (or a grammar
    that this vocabulary cannot go on with), "cancelled" if `Session.cancel`. top_logprobs: for each token the likeliest
    (id, logprob) of that same distribution, where they were asked for; tokens that could not come are left out.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    top_logprobs: Likeliest | None = None


@dataclass(frozen=True)
class Token:
    """One token of a stream; finish_reason is set on a request's last."""

    request: int
    token: int
    logprob: float
    finish_reason: FinishReason | None
    top_logprobs: list[tuple[int, float]] | None = None


class Engine:
    """Decodes with a model; holds nothing between calls, so the model's weights may change from call to call.

    eos_ids: tokens that end every request. pad_id fills up prompts read together (any valid id does). max_batch: how
    many requests run at once. max_prefill_tokens: how many prompt tokens, padding included, are read in one pass.
    max_cache_bytes: keys and values take no more memory than this (None: half of what is free when a session begins);
    requests wait for room, and one that would not fit alone is refused.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        eos_ids: Sequence[int],
        pad_id: int = 0,
        max_batch: int = 128,
        max_prefill_tokens: int = 8192,
        max_cache_bytes: int | None = None,
    ) -> None:
        if max_batch < 1:
            raise RecipeError(f"max_batch is {max_batch}, it must be at least 1")
        self.model = model
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.pad_id = pad_id
        self.max_batch = max_batch
        self.max_prefill_tokens = max_prefill_tokens
        self.max_cache_bytes = max_cache_bytes

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.config.max_position_embeddings

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
        on_token: OnToken | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order of the prompts.

        params: for all, or for each. seed: of the random numbers; None takes params.seed, and draws one where that is
        None too. request_ids: what a request's random numbers are keyed by besides the seed; its index by default.
        on_token(index, token, logprob) hears every token and ends its request by returning True. constraints: for each,
        used up by it.
        DataError for a prompt that is empty, leaves no room in the context, or holds an id that is no token.
        """
        session, numbers = self._begin(prompts, params, seed, request_ids, constraints)
        while session.unfinished:
            session.step(on_token)
        return [session.finished.pop(number) for number in numbers]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Iterator[Token]:
        """The same tokens as they come, requests interleaved. Errors as in `generate`, at the first `next`."""
        heard: list[tuple[int, int, float, list[tuple[int, float]] | None]] = []

        def listen(request: int, token: int, logprob: float) -> None:
            heard.append((request, token, logprob, next(reversed(session.top_logprobs(request)), None)))

        session, _ = self._begin(prompts, params, seed, request_ids, constraints)
        while session.unfinished:
            session.step(listen)
            for request, token, logprob, top in heard:
                done = session.finished.get(request)
                yield Token(request, token, logprob, done.finish_reason if done else None, top)
            heard.clear()

    def session(self, slots: int | None = None, positions: int = 0) -> Session:
        """A session for requests that come and go. `slots` run at once (default: max_batch); `positions`: how long
        prompt and answer together may be expected to get, so that room is made at once."""
        return Session(self, self.max_batch if slots is None else slots, positions)

    def _begin(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        seed: int | None,
        keys: Sequence[int] | None,
        constraints: Sequence[Constraint | None] | None,
    ) -> tuple[Session, list[int]]:
        """A session with these requests in it, and their numbers."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        assert len(each) == len(prompts) and (keys is None or len(keys) == len(prompts))
        longest = max((len(p) + one.max_new_tokens for p, one in zip(prompts, each)), default=0)
        slots = min(self.max_batch, max(1, len(prompts)))
        session = Session(self, slots, min(self.context, longest))
        common = secrets.randbits(63)  # where no seed is given: one for all, as if it had been
        numbers = [
            session.add(
                prompt,
                one,
                seed=self._seed(one, seed, common),
                key=number if keys is None else keys[number],
                where=f"prompt {number + 1} of {len(prompts)}" if len(prompts) > 1 else None,
                constraint=None if constraints is None else constraints[number],
            )
            for number, (prompt, one) in enumerate(zip(prompts, each))
        ]
        return session, numbers

    def _seed(self, params: SamplingParams, seed: int | None, default: int) -> int:
        if seed is not None and params.seed is not None and seed != params.seed:
            raise RecipeError(f"two seeds are given, {seed} and, in the sampling parameters, {params.seed}")
        seed = params.seed if seed is None else seed
        return default if seed is None else seed

    @property
    def bytes_per_token(self) -> int:
        """What the keys and values of one token take."""
        config, size = self.model.config, next(self.model.parameters()).element_size()
        return 2 * config.num_hidden_layers * config.kv_heads * config.head_size * size

    def room(self) -> int:
        """How many tokens' keys and values may be held at once, by `max_cache_bytes`."""
        most = self.max_cache_bytes
        if most is None:
            most = free_memory(next(self.model.parameters()).device) // 2
        return max(1, most // self.bytes_per_token)

    def new_cache(self, slots: int, positions: int, most: int = UNBOUNDED) -> SlotCache:
        """An empty cache for this model, with room for about so many positions, and no more than `most` in all."""
        config, weight = self.model.config, next(self.model.parameters())
        cache = SlotCache(
            config.num_hidden_layers,
            slots,
            config.kv_heads,
            config.head_size,
            device=weight.device,
            dtype=weight.dtype,
            most=most,
        )
        cache.expect(positions)
        return cache

    def new_runner(self, slots: int, positions: int, most: int = UNBOUNDED) -> Runner:
        """What a session runs on: the compiled pass where it fits this model and machine, torch elsewhere."""
        if self.native_obstacle() is None:
            return NativeRunner(self.model, slots, min(positions, self.context, most), most)
        return TorchRunner(self.model, self.new_cache(slots, positions, most), self.pad_id)

    def native_obstacle(self) -> str | None:
        """Why decoding does not go through the compiled pass; None where it does."""
        return obstacle(self.model) or build.reason()

    def ends(self, more: Sequence[int] = ()) -> Tensor:
        """bool [V]: the tokens that end a request, and `more`. RecipeError for one that the model does not have."""
        self._check_tokens("the stop token", self.eos_ids)
        device = next(self.model.parameters()).device
        ends = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device=device)
        ends[torch.tensor((*self.eos_ids, *more), dtype=torch.int64, device=device)] = True
        return ends

    def check_params(self, params: SamplingParams, constraint: Constraint | None = None) -> None:
        """RecipeError for parameters that this model cannot take, or that need a tokenizer."""
        if params.constrained and constraint is None:
            raise RecipeError(
                "json_schema, regex, grammar and thinking_budget need a tokenizer, which the engine has not",
                hint="use a TextGenerator, or give a constraint made by luopan.generate.constraint.constraints_for",
            )
        if params.stop or params.bad_words:
            what = "stop strings" if params.stop else "bad words"
            raise RecipeError(f"{what} need a tokenizer, which the engine has not", hint="use a TextGenerator")
        self._check_tokens("the stop token", params.stop_token_ids)
        self._check_tokens("logit_bias of token", [token for token, _ in params.logit_bias])
        self._check_tokens("the bad word's token", [token for words in params.bad_words_ids for token in words])

    def _check_tokens(self, what: str, tokens: Sequence[int]) -> None:
        size = self.model.config.vocab_size
        for token in tokens:
            if not 0 <= token < size:
                raise RecipeError(f"{what} {token} is outside 0..{size - 1}")

    def check_prompt(self, prompt: Sequence[int], where: object | None = None) -> None:
        """DataError for a prompt that cannot be answered."""
        if not prompt:
            raise DataError("the prompt is empty: there is nothing to go on from", where=where)
        if len(prompt) >= self.context:
            raise DataError(
                f"the prompt has {len(prompt)} tokens and the model's context is {self.context}: no room for an answer",
                where=where,
                hint="shorten it (in a chat: drop the oldest turns) or use a model with a longer context",
            )
        if min(prompt) < 0 or max(prompt) >= self.model.config.vocab_size:
            raise DataError(
                f"the prompt holds a token id outside 0..{self.model.config.vocab_size - 1}",
                where=where,
                hint="was it encoded with this model's own tokenizer?",
            )


def free_memory(device: torch.device) -> int:
    """Bytes that may still be used on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


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
        """Let requests in where there is room, or else give every running one its next token."""
        self._steps += 1
        # Inference mode is entered per step and not around the loop, so that it never leaks into a stream's consumer.
        with torch.inference_mode():
            if not self._reading:
                self._begin()
            if self._reading:
                # Where others run, a long prompt is read in pieces, and they go on between them.
                budget = self.engine.max_prefill_tokens
                logits = self.runner.read(min(budget, _PIECE) if self.rows.active else budget)
                if logits is not None:
                    self._take(*self._admit(logits), on_token)
                    return
            if self.rows.active:
                logits = self.runner.decode(self.rows.last[: self.rows.active])
                self._take(slice(0, self.rows.active), logits, on_token)

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
        if self.rows.asked[row].number in self._dropped:
            self._dropped.discard(self.rows.asked[row].number)
            return
        count = int(self.rows.generated[row])
        said = self.rows.tokens[row, :count].tolist(), self.rows.logprobs[row, :count].tolist()
        request = self.rows.asked[row]
        tops = self.rows.tops.pop(request.number, []) if request.params.top_logprobs else None
        self.finished[request.number] = Completion(*said, reason, tops)

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
