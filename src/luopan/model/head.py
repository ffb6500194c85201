"""The output head and what a loss asks of it, piece by piece: all logits of a step are never held.

With a vocabulary of 49,152 the logits of 4,096 tokens are 805 MB, several times that with their gradient: more than
the rest of a small model's step. Here the head runs over a few hundred tokens at a time. Next-token training needs only
the summed loss, whose gradient is known while a piece is at hand, so that nothing is computed twice
(`linear_cross_entropy`); where each token's log-probability goes on into another loss, a piece is computed again in the
backward pass, unless all pieces together are small (`linear_logprobs`). Values equal those of all logits at once but
for rounding (tested).

Measured with torch 2.13 on 2 shared cores of an AVX-512 EPYC, 4,096 tokens of width 256, fp32, forward and backward:
vocabulary 49,152 2.61 s at once, 1.87 s in pieces of 512, 2.50 s of 64; vocabulary 4,096 0.245 and 0.158 s.
Limits: cannot be differentiated twice; under autocast each piece's weight gradient is rounded to bf16 before it is
added in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luopan.model.ops import input_gradient, log_softmax_, product
from luopan.model.pieces import piece_rows

# Log-probabilities that `linear_logprobs` keeps for the backward pass (CPU), at most: a GRPO step on 128 answers of
# some 20 tokens at a vocabulary of 2048 (19 MB) is 8% faster than with a second pass through the head.
KEPT_BYTES = 64 * 2**20


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None, z_loss_coef: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(sum over n of -log softmax(logits_n)[target_n] + z_loss_coef * lse_n^2, sum of lse_n^2 without gradient), fp32.

    hidden [N, C], weight [V, C], targets [N] int64; logits = hidden weight^T, with `softcap` cap * tanh(logits / cap).
    lse is the log of the softmax's denominator (z-loss: PaLM, arXiv:2204.02311, section 5). N = 0 gives 0.
    """
    total, squares, _ = _CrossEntropy.apply(hidden, weight, targets, softcap, z_loss_coef, False)
    return total, squares


def token_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None, z_loss_coef: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """As `linear_cross_entropy`, to the bit, and the cross-entropy of each token [N] fp32, without gradient."""
    return _CrossEntropy.apply(hidden, weight, targets, softcap, z_loss_coef, True)


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(logits / temperature)[target] [N] fp32 and, if asked for, the entropies [N] without gradient."""
    logprobs, entropies = _LogProbs.apply(hidden, weight, targets, 1.0 / temperature, softcap, entropy)
    return logprobs, entropies if entropy else None


Score = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""From the logits of some tokens [rows, V] fp32, and which they are: their losses [rows] and figures [rows, M]."""


def linear_scores(
    hidden: Tensor, weight: Tensor, score: Score, *, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """(sum of the losses that `score` finds in the logits, its figures [N, M] without gradient).

    hidden [N, C], weight [V, C]; only these two get a gradient, whatever else `score` has read.
    """
    total, figures = _Scored.apply(hidden, weight, score, softcap)
    return total, figures


class _Scored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, score: Score, softcap: float | None) -> tuple[Tensor, Tensor]:
        ctx.gradients = gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        total, figures = hidden.new_zeros((), dtype=torch.float32), []
        rows = piece_rows(weight.shape[0], hidden.device.type)
        for start in range(0, max(1, len(hidden)), rows):  # once even for no token: the figures have a width
            here = slice(start, min(start + rows, len(hidden)))
            loss, found = _scored_piece(hidden[here], here, weight, score, softcap, gradients)
            total += loss
            figures.append(found)
        every = torch.cat(figures)
        ctx.mark_non_differentiable(every)
        return total, every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.gradients.scaled(grad)
        return hidden, weight, None, None


def _scored_piece(
    part: Tensor, here: slice, weight: Tensor, score: Score, softcap: float | None, gradients: _Gradients
) -> tuple[Tensor, Tensor]:
    """Loss and figures of one piece, whose gradients are added to the others'; its logits are gone afterwards."""
    logits, slope = _logits(part, weight, 1.0, softcap)
    logits.requires_grad_(gradients.wanted)
    with torch.set_grad_enabled(gradients.wanted):
        losses, figures = score(logits, here)
        total = losses.sum()
    if gradients.wanted:
        (grad,) = torch.autograd.grad(total, logits)
        gradients.add(part, grad if slope is None else grad.mul_(slope))
    return total.detach(), figures.detach()


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, z_loss_coef: float, each: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.gradients = gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        total, squares = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        losses = [hidden.new_zeros(0, dtype=torch.float32)]
        for part, chosen in _pieces(hidden, targets, weight):
            picked, square = _piece_loss(part, chosen, weight, softcap, z_loss_coef, gradients)
            total += -picked.sum()
            squares += square
            if each:
                losses.append(-picked)
        found = torch.cat(losses)
        ctx.mark_non_differentiable(squares, found)
        return total + z_loss_coef * squares, squares, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.gradients.scaled(grad)
        return hidden, weight, None, None, None, None


def _piece_loss(
    part: Tensor, chosen: Tensor, weight: Tensor, softcap: float | None, z_loss_coef: float, gradients: _Gradients
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets [rows] and sum of lse^2 of one piece, whose gradients are added to the others'.

    A function of its own, so that a piece's logits are gone before the next one's are made.
    """
    logits, slope = _logits(part, weight, 1.0, softcap)
    # log_softmax keeps no normaliser; it is what was taken off any logit.
    first = logits[:, 0].clone() if z_loss_coef else None
    logprobs = log_softmax_(logits)
    picked = logprobs.gather(1, chosen).squeeze(1)
    lse = None if first is None else first - logprobs[:, 0]
    if gradients.wanted:
        grad = logprobs.exp_()
        if lse is not None:
            grad.mul_((1 + 2 * z_loss_coef * lse)[:, None])
        grad.scatter_add_(1, chosen, grad.new_full(chosen.shape, -1.0))
        gradients.add(part, grad if slope is None else grad.mul_(slope))
    return picked, picked.new_zeros(()) if lse is None else lse.square().sum()


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, softcap: float | None, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.scale, ctx.softcap = scale, softcap
        ctx.autocast = torch.is_autocast_enabled(hidden.device.type), torch.get_autocast_dtype(hidden.device.type)
        # What the backward pass needs is kept where it is small, instead of being made again.
        small = 4 * len(hidden) * len(weight) <= KEPT_BYTES and hidden.device.type == "cpu"
        kept: list[Tensor] | None = [] if small and softcap is None and any(ctx.needs_input_grad) else None
        ctx.kept = kept
        pieces = _pieces(hidden, targets, weight)
        found = [_piece_scores(part, chosen, weight, scale, softcap, entropy, kept) for part, chosen in pieces]
        none = hidden.new_zeros(0, dtype=torch.float32)
        logprobs, entropies = (torch.cat([none, *(one[i] for one in found)]) for i in (0, 1))
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        enabled, dtype = ctx.autocast
        kept, ctx.kept = ctx.kept, None  # written over below, so good for one backward pass
        with torch.autocast(hidden.device.type, dtype=dtype, enabled=enabled):
            start = 0
            for number, (part, chosen) in enumerate(_pieces(hidden, targets, weight)):
                upstream = grad[start : start + len(part), None]
                start += len(part)
                if kept is None:
                    logits, slope = _logits(part, weight, ctx.scale, ctx.softcap)
                    logprobs = log_softmax_(logits)
                else:
                    logprobs, slope = kept[number], None
                gradients.add(part, _score_gradient(logprobs, chosen, ctx.scale, slope, upstream))
        return gradients.hidden, gradients.weight, None, None, None, None


def _piece_scores(
    part: Tensor,
    chosen: Tensor,
    weight: Tensor,
    scale: float,
    softcap: float | None,
    entropy: bool,
    kept: list[Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of one piece's targets [rows], and entropies [rows] (or [0]); all of them go to `kept`."""
    logprobs = log_softmax_(_logits(part, weight, scale, softcap)[0])
    if kept is not None:
        kept.append(logprobs)
    scores = logprobs.gather(1, chosen).squeeze(1)
    return scores, -(logprobs.exp() * logprobs).sum(-1) if entropy else scores[:0]


def _score_gradient(logprobs: Tensor, chosen: Tensor, scale: float, slope: Tensor | None, upstream: Tensor) -> Tensor:
    """Gradient of one piece's product hidden weight^T [rows, V] where that of the targets' log-probabilities is
    `upstream` [rows, 1]; written over `logprobs` [rows, V]."""
    piece = logprobs.exp_().mul_(-upstream)
    piece.scatter_add_(1, chosen, upstream)
    if slope is not None:
        return piece.mul_(slope)
    return piece if scale == 1.0 else piece.mul_(scale)


class _Gradients:
    """Of hidden [N, C] and weight [V, C], filled piece by piece; None where nobody asks for it."""

    def __init__(self, hidden: Tensor, weight: Tensor, needs: tuple[bool, ...]) -> None:
        self.of = weight
        self.hidden = torch.empty_like(hidden) if needs[0] else None
        self.weight = torch.zeros_like(weight) if needs[1] else None
        self.wanted = needs[0] or needs[1]
        self.rows = 0

    def add(self, part: Tensor, grad: Tensor) -> None:
        """The gradient [rows, V] of the logits of `part` [rows, C], the next piece."""
        if self.hidden is not None:
            self.hidden[self.rows : self.rows + len(part)] = input_gradient(grad, self.of)
        self.rows += len(part)
        if self.weight is not None:
            if grad.dtype == part.dtype == self.weight.dtype and not torch.is_autocast_enabled(grad.device.type):
                self.weight.addmm_(grad.t(), part)
            else:
                self.weight += grad.t() @ part.to(grad.dtype)

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Both times a scalar, in place: they are used once."""
        # The loop calls backward on the sum itself, so this is 1 nearly always; asking would wait for a GPU.
        if factor.device.type == "cpu" and float(factor) == 1.0:
            return self.hidden, self.weight
        hidden = None if self.hidden is None else self.hidden.mul_(factor)
        return hidden, None if self.weight is None else self.weight.mul_(factor)


def _pieces(hidden: Tensor, targets: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of hidden [rows, C], and of the targets as an index [rows, 1]."""
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)
    rows = piece_rows(weight.shape[0], hidden.device.type)
    for start in range(0, len(hidden), rows):
        yield hidden[start : start + rows], targets[start : start + rows, None]


def _logits(hidden: Tensor, weight: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits [rows, V] in fp32, times `scale`; where they are capped, also their slope in hidden weight^T."""
    logits = product(hidden, weight).float()
    slope = None
    if softcap is not None:
        logits = logits.div_(softcap).tanh_()
        slope = (1 - logits.square()).mul_(scale)
        logits = logits.mul_(softcap)
    return (logits if scale == 1.0 else logits.mul_(scale)), slope
