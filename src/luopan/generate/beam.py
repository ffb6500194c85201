"""Beam search: the likeliest continuation that a search of limited width finds, by log-probability over length.

As `transformers` does it (its `num_beams`, `length_penalty`, `early_stopping`), and tested token for token against it.
A candidate is finished where a stop token or the limit ends it, and only if it is among the `num_beams` best of its
step. The search ends when no running beam can beat the worst of `num_beams` finished ones any more (judged by its score
at its length now), or, with `early_stopping`, as soon as there are so many.

Limits: one prompt at a time; nothing is drawn, so of the sampling parameters only the limit and the stop tokens count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.generate.cache import PromptCache
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion, Engine

NEVER = -1e9


@dataclass(frozen=True)
class Beam:
    """A continuation; `score`: the sum of its log-probabilities over its length to the power of `length_penalty`."""

    completion: Completion
    score: float


@dataclass
class _Beams:
    """K beams: tokens and log-probabilities [K, steps], the sum of those or the score [K], whether they are beams."""

    tokens: Tensor
    logprobs: Tensor
    scores: Tensor
    real: Tensor

    def best(self, count: int) -> _Beams:
        order = self.scores.topk(count).indices
        return _Beams(self.tokens[order], self.logprobs[order], self.scores[order], self.real[order])


def check_beams(num_beams: int, num_return_sequences: int, params: SamplingParams) -> None:
    """RecipeError for what cannot be searched."""
    if num_beams < 1:
        raise RecipeError(f"num_beams is {num_beams}, it must be at least 1")
    if not 1 <= num_return_sequences <= num_beams:
        raise RecipeError(
            f"num_return_sequences is {num_return_sequences}, it must be from 1 to num_beams ({num_beams})"
        )
    used = {"max_new_tokens", "stop_token_ids", "temperature"}
    idle = sorted(name for name in params.model_fields_set - used if getattr(params, name) is not None)
    if idle or params.temperature not in (0, 1):
        raise RecipeError(f"{', '.join(idle) or 'temperature'} has no effect on a beam search: remove it")


@torch.inference_mode()
def beam_search(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    num_return_sequences: int = 1,
) -> list[Beam]:
    """The best continuations of `prompt`, best first. DataError and RecipeError for what cannot be searched."""
    engine.check_prompt(prompt)
    engine.check_params(params)
    check_beams(num_beams, num_return_sequences, params)
    limit = min(params.max_new_tokens, engine.context - len(prompt))
    search = _Search(engine, list(prompt), num_beams, limit, length_penalty, params.stop_token_ids)
    while search.goes_on(early_stopping):
        search.step()
    found = search.finished.best(num_return_sequences)  # all real: at the limit, if not before, the best ones end
    return [search.beam(found, row) for row in range(num_return_sequences)]


class _Search:
    def __init__(
        self, engine: Engine, prompt: list[int], beams: int, limit: int, penalty: float, stops: Sequence[int]
    ) -> None:
        self.model, self.width, self.limit, self.penalty = engine.model, beams, limit, penalty
        device = next(engine.model.parameters()).device
        self.cache = engine.new_cache(beams, len(prompt) + limit)
        read = PromptCache(device)
        ids = torch.tensor([prompt], device=device)
        hidden = self.model.hidden(ids, torch.arange(len(prompt), device=device)[None], cache=read)
        self.logits = self.model.logits(hidden[:, -1]).expand(beams, -1)
        self.cache.insert(read, [0] * beams, [len(prompt)] * beams)
        self.ends = engine.ends(stops)
        # So many candidates that, whatever ends, enough go on.
        candidates = max(2, 1 + int(self.ends.sum())) * beams
        self.candidates = min(candidates, beams * len(self.ends))
        self.length = 0
        tokens = torch.zeros(beams, limit, dtype=torch.int64, device=device)
        none = torch.full((beams,), NEVER, device=device)
        first = none.clone()
        first[0] = 0.0  # all beams are the same at the start
        blank = torch.zeros(beams, limit, device=device)
        self.running = _Beams(tokens, blank, first, torch.ones_like(none, dtype=torch.bool))
        self.finished = _Beams(tokens.clone(), blank.clone(), none, torch.zeros_like(none, dtype=torch.bool))

    def goes_on(self, early_stopping: bool) -> bool:
        """Whether a better beam may still be found."""
        if self.length == self.limit:
            return False
        if self.length == 0 or not bool(self.finished.real.all()):
            return True
        if early_stopping:
            return False
        best = float(self.running.scores[0]) / self.length**self.penalty
        return best > float(self.finished.scores.min())

    def step(self) -> None:
        """One token more."""
        logprobs = self.logits.float().log_softmax(-1)  # [K, V]
        total = logprobs + self.running.scores[:, None]
        scores, places = total.flatten().topk(self.candidates)
        parents, chosen = places // logprobs.shape[1], places % logprobs.shape[1]
        tokens, each = self.running.tokens[parents], self.running.logprobs[parents]
        tokens[:, self.length], each[:, self.length] = chosen, logprobs[parents, chosen]
        self.length += 1
        over = self.ends[chosen] if self.length < self.limit else torch.ones_like(chosen, dtype=torch.bool)
        among_best = torch.arange(self.candidates, device=over.device) < self.width
        done = over & among_best
        self.finished = self._merged(_Beams(tokens, each, scores / self.length**self.penalty, done))
        if self.length == self.limit:
            return
        kept = torch.where(over, scores + NEVER, scores).topk(self.width).indices
        self.running = _Beams(tokens[kept], each[kept], scores[kept], torch.ones_like(kept, dtype=torch.bool))
        self.cache.reorder(parents[kept])
        hidden = self.model.hidden(chosen[kept][:, None], self.cache.position_ids(), cache=self.cache)
        self.cache.advance()
        self.logits = self.model.logits(hidden[:, 0])

    def _merged(self, new: _Beams) -> _Beams:
        """The best finished beams, the new ones among them."""
        old = self.finished
        return _Beams(
            torch.cat([old.tokens, new.tokens]),
            torch.cat([old.logprobs, new.logprobs]),
            torch.cat([old.scores, new.scores.masked_fill(~new.real, NEVER)]),
            torch.cat([old.real, new.real]),
        ).best(self.width)

    def beam(self, beams: _Beams, row: int) -> Beam:
        """One of them as a completion, up to the token that ended it."""
        tokens = beams.tokens[row]
        ended = self.ends[tokens].nonzero()
        count = int(ended[0]) + 1 if len(ended) else self.length
        reason = "stop" if len(ended) else "length"
        said = Completion(tokens[:count].tolist(), beams.logprobs[row, :count].tolist(), reason)  # type: ignore[arg-type]
        return Beam(said, float(beams.scores[row]))
