"""What is known of each running request besides its keys and values, as tensors with one row per slot.

Everything a step needs is computed for all rows at once; Python sees a row only when it comes or goes, when somebody
listens to its tokens or wants the likeliest ones, when it has bad words of several tokens, or a constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luopan.generate.config import SamplingParams
from luopan.generate.constraint import Constraint
from luopan.generate.sampling import Knobs, choose, likeliest, uniforms, warp

Likeliest = list[list[tuple[int, float]]]


@dataclass(frozen=True)
class Request:
    """What is asked: `prompt` tokens, parameters, and what its random numbers are keyed by (`seed`, `key`).

    `limit`: how many tokens it may have, by its parameters and the context. `constraint`: its own, which goes along.
    """

    number: int
    prompt: Sequence[int]
    params: SamplingParams
    seed: int
    key: int
    limit: int
    constraint: Constraint | None = None


class Rows:
    """Rows 0..active-1 are running, in the same slots as in the cache.

    limit, generated [slots] int64 how many tokens it may have and has; tokens, logprobs, noise [slots, longest limit so
    far]; last [slots] the token to be fed next. [slots, V], from when the first request needs them: seen bool what has
    occurred, counts how often it was generated, bias what is added. `ends` [V] bool: tokens that end every request.
    `tops` {number: for each token the likeliest ones}, of requests that want them.
    """

    def __init__(self, slots: int, vocab_size: int, ends: Tensor) -> None:
        self.slots, self.vocab_size, self.ends, self.device = slots, vocab_size, ends, ends.device
        self.active = 0
        self.asked: list[Request] = []  # of the active rows
        self.tops: dict[int, Likeliest] = {}
        self._any_bound = self._any_tops = self._any_phrases = False  # among the active rows
        self._knobs: Knobs | None = None
        self.limit, self.generated, self.last = (
            torch.zeros(slots, dtype=torch.int64, device=self.device) for _ in range(3)
        )
        self.tokens = torch.zeros(slots, 0, dtype=torch.int64, device=self.device)
        self.logprobs, self.noise = (torch.zeros(slots, 0, device=self.device) for _ in range(2))
        self.seen: Tensor | None = None
        self.counts: Tensor | None = None
        self.bias: Tensor | None = None
        self.own_ends: Tensor | None = None  # [slots, V] bool, like `ends` for one request

    def admit(self, requests: Sequence[Request]) -> slice:
        """Append requests. The rows they got."""
        rows = slice(self.active, self.active + len(requests))
        self._make_room(max(request.limit for request in requests))
        self.limit[rows] = torch.tensor([request.limit for request in requests], device=self.device)
        self.generated[rows] = 0
        drawn = np.zeros((len(requests), self.noise.shape[1]), dtype=np.float32)
        for place, request in enumerate(requests):
            if not request.params.greedy:
                drawn[place, : request.limit] = uniforms(request.seed, request.key, request.limit)
        self.noise[rows] = torch.from_numpy(drawn).to(self.device)
        self.asked += requests
        self.active = rows.stop
        self._changed()
        for row, request in enumerate(requests, rows.start):
            self._admit_extras(row, request)
        return rows

    def take(self, rows: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the next token of `rows` from logits [n, V] and write it down: tokens [n], logprobs [n]."""
        knobs = self._knobs_of(rows)
        seen, counts, bias = (None if held is None else held[rows] for held in (self.seen, self.counts, self.bias))
        barred, allowed = self._barred(rows, knobs), self._allowed(rows)
        logits = warp(logits, knobs, seen=seen, counts=counts, bias=bias, barred=barred, allowed=allowed)
        place = self.generated[rows, None]  # [n, 1]
        uniform = None if knobs.all_greedy else self.noise[rows].gather(1, place)
        tokens, logprobs = choose(logits, knobs, uniform)
        self._note_likeliest(rows, logits)
        self.tokens[rows].scatter_(1, place, tokens[:, None])
        self.logprobs[rows].scatter_(1, place, logprobs[:, None])
        self.last[rows] = tokens
        self.generated[rows] += 1
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        if counts is not None:
            counts.scatter_add_(1, tokens[:, None], torch.ones_like(counts[:, :1]).expand(len(tokens), 1))
        self._tell_constraints(rows, tokens)
        return tokens, logprobs

    def guess(self, row: int, logits: Tensor, ahead: int) -> int:
        """What `take` would choose for a row from logits [V] of another model, so many tokens later; penalties, biases
        and what is barred are left aside."""
        params = self.asked[row].params
        if params.greedy:
            return int(logits.argmax())
        plain = SamplingParams(
            temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p,
            typical_p=params.typical_p,
        )  # fmt: skip
        uniform = self.noise[row, int(self.generated[row]) + ahead]
        knobs = Knobs.of([plain], self.device)
        return int(choose(warp(logits[None], knobs), knobs, uniform[None, None])[0])

    def ended(self, rows: slice, tokens: Tensor) -> Tensor:
        """bool [n]: which of the tokens [n] ends its request, be it that nothing can follow it."""
        found = self._are_ends(rows, tokens)
        for place, constraint in self._bound(rows):
            # An end that is not accepted only comes where nothing else could: the text is not whole.
            found[place] = constraint.accepting and (constraint.done or bool(found[place]))
        return found

    def compact(self, source: Sequence[int], target: Sequence[int], active: int) -> None:
        """Copy rows `source` over rows `target` and keep the first `active`."""
        if source:
            moved = torch.tensor([source, target], dtype=torch.int64, device=self.device)
            for held in self._held():
                held[moved[1]] = held[moved[0]]
            for one, other in zip(source, target, strict=True):
                self.asked[other] = self.asked[one]
        del self.asked[active:]
        self.active = active
        self._changed()

    def _changed(self) -> None:
        """Other requests are running than before."""
        self._knobs = None
        self._any_bound = any(one.constraint is not None for one in self.asked)
        self._any_tops = any(one.params.top_logprobs for one in self.asked)
        self._any_phrases = any(len(words) > 1 for one in self.asked for words in one.params.bad_words_ids)

    def _are_ends(self, rows: slice, tokens: Tensor) -> Tensor:
        found = self.ends[tokens]
        return found if self.own_ends is None else found | self.own_ends[rows].gather(1, tokens[:, None])[:, 0]

    def _bound(self, rows: slice) -> list[tuple[int, Constraint]]:
        """Those of `rows`, counted from the first of them, that have a constraint."""
        if not self._any_bound:
            return []
        return [(place, one.constraint) for place, one in enumerate(self.asked[rows]) if one.constraint is not None]

    def _allowed(self, rows: slice) -> Tensor | None:
        """bool [n, V]: what the constraints allow; None where no row has one. An end may come where they accept it."""
        bound = self._bound(rows)
        if not bound:
            return None
        ends = self.ends.cpu()
        own = None if self.own_ends is None else self.own_ends[rows].cpu()
        allowed = torch.ones(rows.stop - rows.start, self.vocab_size, dtype=torch.bool)
        for place, constraint in bound:
            over = ends if own is None else ends | own[place]
            constraint.allow(allowed[place])
            allowed[place, over] = constraint.accepting
            if not bool(allowed[place].any()):  # stuck: `_tell_constraints` ends it, whatever comes
                allowed[place] = over if bool(over.any()) else True
        return allowed.to(self.device)

    def _tell_constraints(self, rows: slice, tokens: Tensor) -> None:
        """Each constraint hears its row's token, unless that ends the text; one that is stuck has reached its limit."""
        bound = self._bound(rows)
        if not bound:
            return
        over, said = self._are_ends(rows, tokens).tolist(), tokens.tolist()
        for place, constraint in bound:
            if not over[place] and not constraint.done:
                constraint.take(said[place])
            if not constraint.accepting and (over[place] or constraint.done):
                self.limit[rows.start + place] = self.generated[rows.start + place]

    def _note_likeliest(self, rows: slice, logits: Tensor) -> None:
        """Write down the likeliest tokens for the rows that want them; those that cannot come are left out."""
        if not self._any_tops:
            return
        wanted = [(place, one) for place, one in enumerate(self.asked[rows]) if one.params.top_logprobs]
        if not wanted:
            return
        chosen = logits if len(wanted) == len(logits) else logits[[place for place, _ in wanted]]
        found = likeliest(chosen, max(one.params.top_logprobs for _, one in wanted))
        for (_, request), ids, values in zip(wanted, *(each.tolist() for each in found), strict=True):
            best = zip(ids[: request.params.top_logprobs], values)
            self.tops.setdefault(request.number, []).append([(i, value) for i, value in best if value > -torch.inf])

    def _knobs_of(self, rows: slice) -> Knobs:
        whole = rows == slice(0, self.active)
        if whole and self._knobs is not None:
            return self._knobs
        found = Knobs.of([request.params for request in self.asked[rows]], self.device)
        if whole:
            self._knobs = found
        return found

    def _admit_extras(self, row: int, request: Request) -> None:
        """What only some requests need, in tensors that are made for the first of them."""
        params = request.params
        self.seen = self._row_of(self.seen, row, params.repetition_penalty != 1, torch.bool)
        if self.seen is not None and params.repetition_penalty != 1:
            self.seen[row, torch.tensor(list(request.prompt), device=self.device)] = True
        counted = bool(params.frequency_penalty or params.presence_penalty)
        self.counts = self._row_of(self.counts, row, counted, torch.float32)
        single = [words[0] for words in params.bad_words_ids if len(words) == 1]
        self.bias = self._row_of(self.bias, row, bool(params.logit_bias or single), torch.float32)
        if self.bias is not None:
            for token, value in params.logit_bias:
                self.bias[row, token] = value
            self.bias[row, torch.tensor(single, dtype=torch.int64, device=self.device)] = -torch.inf
        self.own_ends = self._row_of(self.own_ends, row, bool(params.stop_token_ids), torch.bool)
        if self.own_ends is not None:
            self.own_ends[row, torch.tensor(params.stop_token_ids, dtype=torch.int64, device=self.device)] = True

    def _row_of(self, held: Tensor | None, row: int, needed: bool, kind: torch.dtype) -> Tensor | None:
        """`held` with an empty row; None where nobody has needed it so far."""
        if held is None and not needed:
            return None
        if held is None:
            held = torch.zeros(self.slots, self.vocab_size, dtype=kind, device=self.device)
        held[row] = 0
        return held

    def _barred(self, rows: slice, knobs: Knobs) -> Tensor | None:
        """bool [n, V]: ends that come too early, and last tokens of bad words that have begun; None: nothing is."""
        barred: Tensor | None = None
        if knobs.min_new_tokens is not None:
            ends = self.ends[None] if self.own_ends is None else self.ends | self.own_ends[rows]
            barred = ends & (self.generated[rows, None] < knobs.min_new_tokens)
        for place, request in enumerate(self.asked[rows] if self._any_phrases else ()):
            longest = max(map(len, request.params.bad_words_ids), default=0)
            if longest < 2:
                continue
            row, count = rows.start + place, int(self.generated[rows.start + place])
            said = self.tokens[row, max(0, count - longest + 1) : count].tolist()
            said = [*request.prompt[-longest:], *said][1 - longest :]
            if barred is None:
                barred = torch.zeros(rows.stop - rows.start, self.vocab_size, dtype=torch.bool, device=self.device)
            for words in request.params.bad_words_ids:
                if len(words) > 1 and list(words[:-1]) == said[1 - len(words) :]:
                    barred[place, words[-1]] = True
        return barred

    def _make_room(self, length: int) -> None:
        """Room for so many tokens in each row."""
        missing = length - self.tokens.shape[1]
        if missing <= 0:
            return
        for name in ("tokens", "logprobs", "noise"):
            setattr(self, name, torch.nn.functional.pad(getattr(self, name), (0, missing)))

    def _held(self) -> list[Tensor]:
        always = [self.limit, self.generated, self.last, self.tokens, self.logprobs, self.noise]
        return always + [held for held in (self.seen, self.counts, self.bias, self.own_ends) if held is not None]
