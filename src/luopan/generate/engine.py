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
from luopan.generate.cache import PromptCache, SlotCache
from luopan.generate.config import SamplingParams
from luopan.generate.constraint import Constraint
from luopan.generate.rows import Likeliest, Request, Rows
from luopan.model.decoder import Decoder

FinishReason = Literal["stop", "length", "cancelled"]
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
    """

    def __init__(
        self,
        model: Decoder,
        *,
        eos_ids: Sequence[int],
        pad_id: int = 0,
        max_batch: int = 128,
        max_prefill_tokens: int = 8192,
    ) -> None:
        if max_batch < 1:
            raise RecipeError(f"max_batch is {max_batch}, it must be at least 1")
        self.model = model
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.pad_id = pad_id
        self.max_batch = max_batch
        self.max_prefill_tokens = max_prefill_tokens

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

    def new_cache(self, slots: int, positions: int) -> SlotCache:
        """An empty cache for this model, with room for about so many positions."""
        config, weight = self.model.config, next(self.model.parameters())
        cache = SlotCache(
            config.num_hidden_layers,
            slots,
            config.kv_heads,
            config.head_size,
            device=weight.device,
            dtype=weight.dtype,
        )
        cache.expect(positions)
        return cache

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
        self.device = next(engine.model.parameters()).device
        with torch.inference_mode():
            self.cache = engine.new_cache(slots, positions)
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
        return bool(self.waiting) or self.rows.active > 0

    def step(self, on_token: OnToken | None = None) -> None:
        """Let requests in where there is room, or else give every running one its next token."""
        self._steps += 1
        # Inference mode is entered per step and not around the loop, so that it never leaks into a stream's consumer.
        with torch.inference_mode():
            free = self.slots - self.rows.active
            # One prompt at a time would cost a pass over the weights each; wait until an eighth of the slots is free.
            if self.waiting and free >= min(len(self.waiting), max(1, self.slots // 8)):
                rows, logits = self._admit(free)
            elif self.rows.active:
                rows, logits = slice(0, self.rows.active), self._decode()
            else:
                return
            tokens, logprobs = self.rows.take(rows, logits)
            self._finish(rows, tokens, logprobs, on_token)

    def _place(self, request: Request) -> tuple[int, int, Sequence[int], int]:
        return -self._came[request.number], len(request.prompt), request.prompt, -request.number

    def _decode(self) -> Tensor:
        """Feed each running request its last token: logits [active, V]."""
        model, cache = self.engine.model, self.cache
        hidden = model.hidden(self.rows.last[: self.rows.active, None], cache.position_ids(), cache=cache)  # [n, 1, C]
        cache.advance()
        return model.logits(hidden[:, 0])

    def _admit(self, free: int) -> tuple[slice, Tensor]:
        """Read waiting prompts into at most `free` slots: their rows, and the logits [n, V] after each."""
        requests, distinct, source = self._next_group(free)
        lengths = [len(request.prompt) for request in requests]
        width = max(lengths)
        ids = torch.tensor(
            [[*p, *[self.engine.pad_id] * (width - len(p))] for p in distinct], device=self.device
        )  # [u, T]
        places = torch.arange(width, device=self.device).expand(ids.shape)
        read = PromptCache(self.device)
        hidden = self.engine.model.hidden(ids, places, cache=read)  # [u, T, C]
        ends = torch.tensor([len(prompt) - 1 for prompt in distinct], device=self.device)
        logits = self.engine.model.logits(hidden[torch.arange(len(distinct), device=self.device), ends])  # [u, V]
        self.cache.insert(read, source, lengths)
        return self.rows.admit(requests), logits[torch.tensor(source, device=self.device)]

    def _next_group(self, free: int) -> tuple[list[Request], list[Sequence[int]], list[int]]:
        """Requests to read together, their distinct prompts, and which of those each request has."""
        requests: list[Request] = []
        distinct: list[Sequence[int]] = []
        source: list[int] = []
        width = 0
        while self.waiting and len(requests) < free:
            prompt = self.waiting[-1].prompt
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
        self.cache.compact(source, target, active)

    def _tell(self, rows: slice, tokens: Tensor, logprobs: Tensor, stopped: Tensor, on_token: OnToken) -> Tensor:
        """Call the listener for each row; bool [n], which of them it wants to end."""
        numbers = [request.number for request in self.rows.asked[rows]]
        heard = zip(numbers, tokens.tolist(), logprobs.tolist())
        return torch.tensor([bool(on_token(*item)) for item in heard], dtype=torch.bool, device=stopped.device)
