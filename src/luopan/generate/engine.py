"""Tokens in, tokens out: many requests of different lengths through one cached decoding loop.

An `Engine` is a model and how it is run; a `Session` (`generate.session`) holds requests that come and go. A request
draws from its own random numbers, keyed by (seed, its key), so what it says depends neither on its neighbours nor on
their order (to the bit by the compiled pass; up to rounding by torch's operations, see `sampling`).

Limits: computation is in the model's own precision; nothing is kept from one session to the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from luopan.errors import DataError, RecipeError
from luopan.generate.cache import UNBOUNDED, SlotCache
from luopan.generate.completion import Completion, FinishReason, OnToken, Token
from luopan.generate.config import SamplingParams
from luopan.generate.constraint import Constraint
from luopan.generate.native import build
from luopan.generate.native.binding import obstacle
from luopan.generate.native.runner import NativeRunner
from luopan.generate.runner import Runner, TorchRunner
from luopan.generate.session import Session
from luopan.generate.speculation import Speculation
from luopan.model.decoder import Decoder

__all__ = ["Completion", "Engine", "FinishReason", "OnToken", "Session", "Token", "free_memory"]


class Engine:
    """Decodes with a model; holds nothing between calls, so the model's weights may change from call to call.

    eos_ids: tokens that end every request. pad_id fills up prompts read together (any valid id does). max_batch: how
    many requests run at once. max_prefill_tokens: how many prompt tokens, padding included, are read in one pass.
    max_cache_bytes: keys and values take no more memory than this (None: half of what is free when a session begins);
    requests wait for room, and one that would not fit alone is refused. speculation: how tokens are guessed ahead where
    few requests run; it changes how fast they come, never which.
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
        speculation: Speculation | None = None,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_prefill_tokens", max_prefill_tokens)):
            if value < 1:
                raise RecipeError(f"{name} is {value}, it must be at least 1")
        self.model = model
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.pad_id = pad_id
        self.max_batch = max_batch
        self.max_prefill_tokens = max_prefill_tokens
        self.max_cache_bytes = max_cache_bytes
        self.speculation = speculation
        if speculation is not None:
            speculation.check(model)

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
        # The compiled pass holds fp32 whatever the weights are.
        config, native = self.model.config, self.native_obstacle() is None
        size = 4 if native else next(self.model.parameters()).element_size()
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
        if torch.is_autocast_enabled("cpu"):
            return "autocast, which it does not know"  # a trainer's precision, so that ratios are 1
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
