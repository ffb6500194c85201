"""From logits to tokens, as pure functions over a batch: penalties, temperature, filters, and the draw itself.

Every row has sampling parameters of its own (`Knobs`). The draw is the inverse of the cumulative distribution at one
uniform number per row. One number per token instead of one per vocabulary entry (Gumbel noise) makes the noise free,
and it comes from a counter (Philox) keyed by seed and request, so a request draws the same numbers whatever else is in
the batch. What remains is rounding: matrix products over another batch size differ in the last bits, which moves a draw
about once in a million tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luopan.generate.config import SamplingParams
from luopan.generate.native import binding

_MASK_64 = 2**64 - 1
# Sorting 2048 logits of 128 rows takes 15 ms, their 256 largest 4 ms (one core); the nucleus is nearly always smaller.
_NUCLEUS_GUESS = 256


@dataclass(frozen=True)
class Knobs:
    """The sampling parameters of B rows as columns [B, 1] ([1, 1] where all rows have the same); None: off in all.

    For a greedy row temperature and filters are off: it takes the largest of what the penalties leave.
    """

    temperature: Tensor | None = None
    top_k: Tensor | None = None  # 0 is off
    top_p: Tensor | None = None
    min_p: Tensor | None = None
    typical_p: Tensor | None = None
    repetition_penalty: Tensor | None = None
    frequency_penalty: Tensor | None = None
    presence_penalty: Tensor | None = None
    min_new_tokens: Tensor | None = None
    greedy: Tensor | None = None  # bool; None where no row is
    all_greedy: bool = False
    largest_k: int = 0

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> Knobs:
        """Those of the rows' parameters."""
        if params and all(one is params[0] or one == params[0] for one in params):
            params = params[:1]
        drawn = [not one.greedy for one in params]

        def column(values: Sequence[float], off: float, kind: torch.dtype = torch.float32) -> Tensor | None:
            if all(value == off for value in values):
                return None
            return torch.tensor(values, dtype=kind, device=device)[:, None]

        top_k = [one.top_k or 0 for one in params]
        return cls(
            column([one.temperature if draws else 1.0 for one, draws in zip(params, drawn)], 1.0),
            column(top_k, 0, torch.int64),
            column([one.top_p for one in params], 1.0),
            column([one.min_p for one in params], 0.0),
            column([one.typical_p for one in params], 1.0),
            column([one.repetition_penalty for one in params], 1.0),
            column([one.frequency_penalty for one in params], 0.0),
            column([one.presence_penalty for one in params], 0.0),
            column([one.min_new_tokens for one in params], 0, torch.int64),
            None if all(drawn) else torch.tensor([not draws for draws in drawn], device=device)[:, None],
            not any(drawn),
            max(top_k, default=0),
        )


def uniforms(seed: int, request: int, count: int) -> np.ndarray:
    """[count] float32 in [0, 1): the numbers that request `request` draws its 1st, 2nd, ... token with."""
    bits = np.random.Philox(key=np.array([seed & _MASK_64, request & _MASK_64], dtype=np.uint64)).random_raw(count)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """[B, V]: the logits of tokens that have occurred (`seen` [B, V] bool) made less likely.

    Divided by the penalty where positive, multiplied where negative (Keskar et al. 2019, arXiv:1909.05858, as
    transformers reads it).
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalise_counts(logits: Tensor, counts: Tensor, frequency: Tensor | None, presence: Tensor | None) -> Tensor:
    """[B, V] less `frequency` times how often each token was generated (`counts` [B, V]) and `presence` if it was."""
    if frequency is not None:
        logits = logits - frequency * counts
    return logits if presence is None else logits - presence * (counts > 0)


def keep_top_k(logits: Tensor, top_k: Tensor, largest: int) -> Tensor:
    """[B, V] with all but the k largest logits (and those equal to the k-th) at minus infinity; k 0 keeps all.

    `largest`: of the `top_k`, known without waiting for a GPU.
    """
    values = logits.topk(min(largest, logits.shape[-1]), dim=-1).values  # descending
    place = (top_k - 1).clamp(0, values.shape[-1] - 1).expand(len(logits), 1)
    smallest = values.gather(-1, place).masked_fill(top_k == 0, -torch.inf)
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """[B, V] with everything outside the nucleus at minus infinity: the fewest likeliest tokens whose probabilities
    reach top_p (Holtzman et al. 2020, arXiv:1904.09751). The likeliest one always stays; 1 keeps all."""
    vocab_size = logits.shape[-1]
    off = top_p >= 1
    total = logits.logsumexp(-1, keepdim=True)  # [B, 1]
    for size in (min(_NUCLEUS_GUESS, vocab_size), vocab_size):
        values, indices = logits.topk(size, dim=-1)  # descending
        reached = (values - total).exp().cumsum(-1)  # [B, size], probability up to and with each token
        if size == vocab_size or bool(((reached[:, -1:] >= top_p) | off).all()):
            break
    keep = torch.ones_like(reached, dtype=torch.bool)
    keep[:, 1:] = reached[:, :-1] < top_p  # a token stays while those before it do not reach top_p
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, indices, keep)
    return logits.masked_fill(~(kept | off), -torch.inf)


def keep_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """[B, V] with tokens less likely than min_p times the likeliest at minus infinity (arXiv:2407.01082)."""
    # p >= min_p * p_max, in logs: the normaliser cancels, and the logarithm of 0 keeps all.
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + min_p.log(), -torch.inf)


def keep_typical(logits: Tensor, typical_p: Tensor) -> Tensor:
    """[B, V] with all but the tokens whose surprise is nearest to the entropy, up to typical_p of probability, at minus
    infinity (Meister et al. 2022, arXiv:2202.00666); 1 keeps all."""
    logprobs = logits.log_softmax(-1)
    probabilities = logprobs.exp()
    entropy = -(logprobs * probabilities).nansum(-1, keepdim=True)
    odd = (-logprobs - entropy).abs()  # [B, V]; infinite where the probability is 0
    order = odd.sort(dim=-1).indices
    reached = probabilities.gather(-1, order).cumsum(-1)
    last = (reached < typical_p).sum(-1, keepdim=True).clamp_(max=logits.shape[-1] - 1)
    limit = odd.gather(-1, order).gather(-1, last)
    return logits.masked_fill((odd > limit) & (typical_p < 1), -torch.inf)


def warp(
    logits: Tensor, knobs: Knobs, *, seen: Tensor | None = None, counts: Tensor | None = None,
    bias: Tensor | None = None, barred: Tensor | None = None, allowed: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The logits [B, V] of the distribution that is drawn from, fp32; of greedy rows, whose largest is taken.

    All [B, V]: `seen` bool, the tokens that have occurred (needed with a repetition penalty); `counts`, how often each
    was generated (with the other two penalties); `bias`, added first; `barred` bool, tokens that may not come;
    `allowed` bool, the only ones that may, at least one a row. Where what is barred and what is allowed leave nothing,
    what is allowed counts.
    """
    logits = raw = logits.float()
    if bias is not None:
        logits = logits + bias
    if knobs.repetition_penalty is not None:
        assert seen is not None
        logits = penalise_repetition(logits, seen, knobs.repetition_penalty)
    if knobs.frequency_penalty is not None or knobs.presence_penalty is not None:
        assert counts is not None
        logits = penalise_counts(logits, counts, knobs.frequency_penalty, knobs.presence_penalty)
    if barred is not None:
        logits = logits.masked_fill(barred, -torch.inf)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
        stuck = logits.amax(-1, keepdim=True) == -torch.inf
        logits = torch.where(stuck, raw.masked_fill(~allowed, -torch.inf), logits)
    if knobs.temperature is not None:
        logits = logits / knobs.temperature
    if knobs.top_k is not None:
        logits = keep_top_k(logits, knobs.top_k, knobs.largest_k)
    if knobs.top_p is not None:
        logits = keep_top_p(logits, knobs.top_p)
    if knobs.min_p is not None:
        logits = keep_min_p(logits, knobs.min_p)
    return logits if knobs.typical_p is None else keep_typical(logits, knobs.typical_p)


def choose(logits: Tensor, knobs: Knobs, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """A token for each row of warped logits [B, V] and its log-probability: drawn, or the likeliest of greedy rows.

    `uniform` [B, 1] fp32 is needed where a row draws.
    """
    if knobs.all_greedy:
        return argmax(logits)
    assert uniform is not None
    tokens, logprobs = draw(logits, uniform)
    if knobs.greedy is None:
        return tokens, logprobs
    best, best_logprobs = argmax(logits)
    greedy = knobs.greedy[:, 0]
    return torch.where(greedy, best, tokens), torch.where(greedy, best_logprobs, logprobs)


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row from softmax(logits [B, V]) with uniform [B, 1] in [0, 1): tokens [B], their logprobs [B].

    `uniform` is fp32, as `uniforms` makes it. A token of probability zero is never drawn: sums on either side of it are
    equal. Logits that are no numbers give a logprob that is none. On a CPU it is compiled: a quarter of the time.
    """
    if binding.draws(logits):
        return binding.draw(logits, uniform)
    return draw_by_torch(logits, uniform)


def draw_by_torch(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """`draw` on every device."""
    probabilities = logits.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # At most 1 - 2^-24, so the product rounds to less than the last sum, which is near 1.
    threshold = uniform * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True)  # the first whose sum is above it
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], probabilities.gather(-1, tokens)[:, 0].log()


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token per row [B] and its log-probability [B] under softmax(logits [B, V]) (temperature 1)."""
    best, tokens = logits.max(-1)
    return tokens, best - logits.logsumexp(-1)


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of softmax(logits [B, V]), best first: tokens and their log-probabilities [B, k]."""
    best, tokens = logits.topk(min(count, logits.shape[-1]), dim=-1)
    return tokens, best - logits.logsumexp(-1, keepdim=True)
