"""Tokens in, tokens out: many requests of different lengths through one cached decoding loop.

Prompts are read longest first, several at once, equal ones once (a group of rollouts shares its prompt). Running
requests take one token per step together; those that end leave the batch at once and waiting ones come in. A request
draws from its own random numbers, keyed by (seed, its index), so what it says depends neither on its neighbours nor on
their order (up to rounding, see `sampling`).

Limits: one set of sampling parameters per call; computation is in the model's own precision; no sharing of prefixes
between prompts that are not equal; nothing is kept from one call to the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from luopan.errors import DataError, ModelError, RecipeError
from luopan.generate.cache import PromptCache, SlotCache
from luopan.generate.config import SamplingParams
from luopan.generate.rows import Rows
from luopan.model.decoder import Decoder

FinishReason = Literal["stop", "length"]
OnToken = Callable[[int, int, float], bool | None]


@dataclass(frozen=True)
class Completion:
    """What one request generated.

    tokens: with the stop token that ended it, if one did (it is trained like the rest in reinforcement learning).
    logprobs: of each token under the distribution it was drawn from, filters and temperature included; for greedy
    decoding, where nothing is drawn, under the model's own at temperature 1. finish_reason: "stop" if a stop token (or
    a listener) ended it, "length" if the limit or the end of the context did.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


@dataclass(frozen=True)
class Token:
    """One token of a stream; finish_reason is set on a request's last."""

    request: int
    token: int
    logprob: float
    finish_reason: FinishReason | None


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
        params: SamplingParams,
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order of the prompts.

        seed: of the random numbers; None takes params.seed, and draws one where that is None too. request_ids: what a
        request's random numbers are keyed by besides the seed; its index by default. on_token(index, token, logprob)
        hears every token and ends its request by returning True.
        DataError for a prompt that is empty, leaves no room in the context, or holds an id that is no token.
        """
        run = _Run(self, prompts, params, self._seed(params, seed), request_ids)
        while run.unfinished:
            run.step(on_token)
        return [completion for completion in run.completions if completion is not None]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
    ) -> Iterator[Token]:
        """The same tokens as they come, requests interleaved. Errors as in `generate`, at the first `next`."""
        heard: list[tuple[int, int, float]] = []

        def listen(request: int, token: int, logprob: float) -> None:
            heard.append((request, token, logprob))

        run = _Run(self, prompts, params, self._seed(params, seed), request_ids)
        while run.unfinished:
            run.step(listen)
            for request, token, logprob in heard:
                done = run.completions[request]
                yield Token(request, token, logprob, done.finish_reason if done else None)
            heard.clear()

    def _seed(self, params: SamplingParams, seed: int | None) -> int:
        if params.stop:
            raise RecipeError("stop strings need a tokenizer, which the engine has not", hint="use a TextGenerator")
        if seed is not None and params.seed is not None and seed != params.seed:
            raise RecipeError(f"two seeds are given, {seed} and, in the sampling parameters, {params.seed}")
        seed = params.seed if seed is None else seed
        return secrets.randbits(63) if seed is None else seed

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


class _Run:
    """One call of the engine: waiting requests, running ones, finished ones."""

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seed: int,
        request_ids: Sequence[int] | None,
    ) -> None:
        for number, prompt in enumerate(prompts):
            engine.check_prompt(prompt, f"prompt {number + 1} of {len(prompts)}" if len(prompts) > 1 else None)
        self.engine, self.params = engine, params
        self.prompts = [list(prompt) for prompt in prompts]
        self.ids = list(range(len(prompts))) if request_ids is None else list(request_ids)
        assert len(self.ids) == len(prompts)
        self.completions: list[Completion | None] = [None] * len(prompts)
        # Longest first: neighbours have similar lengths, and equal prompts stand together. Popped from the end.
        self.waiting = sorted(range(len(prompts)), key=lambda i: (len(self.prompts[i]), self.prompts[i], -i))
        config, weight = engine.model.config, next(engine.model.parameters())
        self.slots = min(engine.max_batch, max(1, len(prompts)))
        self.device = weight.device
        with torch.inference_mode():
            self.cache = SlotCache(
                config.num_hidden_layers,
                self.slots,
                config.kv_heads,
                config.head_size,
                device=self.device,
                dtype=weight.dtype,
            )
            longest = max((len(prompt) for prompt in prompts), default=0)
            self.cache.expect(min(engine.context, longest + params.max_new_tokens))
            self.rows = Rows(self.slots, config.vocab_size, params, seed, self.device)
            self.stops = torch.zeros(config.vocab_size, dtype=torch.bool, device=self.device)
            for stop in (*engine.eos_ids, *params.stop_token_ids):
                if not 0 <= stop < config.vocab_size:
                    raise RecipeError(f"the stop token {stop} is outside 0..{config.vocab_size - 1}")
                self.stops[stop] = True

    @property
    def unfinished(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self.waiting) or self.rows.active > 0

    def step(self, on_token: OnToken | None) -> None:
        """Let requests in where there is room, or else give every running one its next token."""
        # Inference mode is entered per step and not around the loop, so that it never leaks into a stream's consumer.
        with torch.inference_mode():
            free = self.slots - self.rows.active
            # One prompt at a time would cost a pass over the weights each; wait until an eighth of the slots is free.
            if self.waiting and free >= min(len(self.waiting), max(1, self.slots // 8)):
                rows, logits = self._admit(free)
            else:
                rows, logits = slice(0, self.rows.active), self._decode()
            tokens, logprobs = self.rows.take(rows, logits)
            self._finish(rows, tokens, logprobs, on_token)

    def _decode(self) -> Tensor:
        """Feed each running request its last token: logits [active, V]."""
        model, cache = self.engine.model, self.cache
        hidden = model.hidden(self.rows.last[: self.rows.active, None], cache.position_ids(), cache=cache)  # [n, 1, C]
        cache.advance()
        return model.logits(hidden[:, 0])

    def _admit(self, free: int) -> tuple[slice, Tensor]:
        """Read waiting prompts into at most `free` slots: their rows, and the logits [n, V] after each."""
        requests, distinct, source = self._next_group(free)
        lengths = [len(self.prompts[request]) for request in requests]
        width = max(lengths)
        ids = torch.tensor(
            [p + [self.engine.pad_id] * (width - len(p)) for p in distinct], device=self.device
        )  # [u, T]
        places = torch.arange(width, device=self.device).expand(ids.shape)
        read = PromptCache(self.device)
        hidden = self.engine.model.hidden(ids, places, cache=read)  # [u, T, C]
        ends = torch.tensor([len(prompt) - 1 for prompt in distinct], device=self.device)
        logits = self.engine.model.logits(hidden[torch.arange(len(distinct), device=self.device), ends])  # [u, V]
        self.cache.insert(read, source, lengths)
        room = self.engine.context
        limits = [min(self.params.max_new_tokens, room - length) for length in lengths]
        prompts = [self.prompts[request] for request in requests]
        rows = self.rows.admit(requests, [self.ids[request] for request in requests], limits, prompts)
        return rows, logits[torch.tensor(source, device=self.device)]

    def _next_group(self, free: int) -> tuple[list[int], list[list[int]], list[int]]:
        """Requests to read together, their distinct prompts, and which of those each request has."""
        requests: list[int] = []
        distinct: list[list[int]] = []
        source: list[int] = []
        width = len(self.prompts[self.waiting[-1]])
        while self.waiting and len(requests) < free:
            prompt = self.prompts[self.waiting[-1]]
            if not distinct or prompt != distinct[-1]:
                if distinct and (len(distinct) + 1) * width > self.engine.max_prefill_tokens:
                    break
                distinct.append(prompt)
            requests.append(self.waiting.pop())
            source.append(len(distinct) - 1)
        return requests, distinct, source

    def _finish(self, rows: slice, tokens: Tensor, logprobs: Tensor, on_token: OnToken | None) -> None:
        """Take the requests that have ended out of the batch and close the gaps."""
        stopped = self.stops[tokens]  # [n]
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
            count = int(self.rows.generated[row])
            self.completions[int(self.rows.request[row])] = Completion(
                self.rows.tokens[row, :count].tolist(),
                self.rows.logprobs[row, :count].tolist(),
                "stop" if by_stop else "length",
            )
        self._close_gaps(gone)

    def _close_gaps(self, gone: list[int]) -> None:
        """Move running requests from the end of the batch into the slots of those that are gone."""
        active = self.rows.active - len(gone)
        missing = set(gone)
        target = [row for row in gone if row < active]
        source = [row for row in range(active, self.rows.active) if row not in missing]
        keep = [row for row in range(self.rows.active) if row not in missing]
        longest = int(self.cache.lengths[torch.tensor(keep, device=self.device)].max()) if keep else 0
        moves = torch.tensor([source, target], dtype=torch.int64, device=self.device)
        self.rows.compact(moves[0], moves[1], active)
        self.cache.compact(moves[0], moves[1], active, longest)

    def _tell(self, rows: slice, tokens: Tensor, logprobs: Tensor, stopped: Tensor, on_token: OnToken) -> Tensor:
        """Call the listener for each row; bool [n], which of them it wants to end."""
        requests = self.rows.request[rows].tolist()
        heard = zip(requests, tokens.tolist(), logprobs.tolist())
        return torch.tensor([bool(on_token(*item)) for item in heard], dtype=torch.bool, device=stopped.device)
