"""Learning from a teacher: the generalised Jensen-Shannon divergence between its next-token distribution and one's own.

With teacher t, student s, both softmax(logits / temperature), and the mixture m = beta t + (1 - beta) s:

  JSD(beta) = beta KL(t || m) + (1 - beta) KL(s || m)     Agarwal et al. 2024 (GKD), arXiv:2306.13649, eq. 1
  beta 0      KL(t || s), forward: the student covers all that the teacher would say
  beta 1      KL(s || t), reverse: the student says only what the teacher would say   Gu et al. 2024, arXiv:2306.08543

0 and 1 are defined as these divergences, though JSD itself goes to 0 there (divided by beta it goes to KL(t || s)); so
does TRL. Between them the loss and its gradient shrink with beta (1 - beta): a learning rate that suits beta 1 is slow
at beta 0.1.

Where only the teacher's k likeliest tokens are known, `rest` says what stands for the others:

  bucket       one event more, of the probability that is left over, for teacher and student alike. It is a lower bound
               of the full divergence (data processing inequality), and the student learns how much to leave over.
  renormalise  both are made to sum to 1 over the k tokens. What the student says beside them is free: it is not told to
               leave it. For teachers whose k log-probabilities are not those of a whole distribution.

Where only the teacher's log-probability of the sampled token is known, `sampled_reverse_kl` is the policy gradient of
KL(s || t) on the student's own samples, token by token and without what a token does to later ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, mean_metric

Rest = Literal["bucket", "renormalise"]

NEVER = -1e4  # log-probability of what cannot happen: exp is 0, and 0 * it is 0, where -inf would make it NaN
REST_FLOOR = 1e-6  # of a teacher's left-over probability, which in fp32 is known to about that


def check_divergence(beta: float, temperature: float) -> None:
    """RecipeError for a beta outside [0, 1] or a temperature that is not above 0."""
    if not 0 <= beta <= 1:
        raise RecipeError(f"beta is {beta}, it must be in [0, 1]", hint="0 is forward KL, 1 reverse KL, 0.5 between")
    if not temperature > 0:
        raise RecipeError(
            f"temperature is {temperature}, it must be above 0", hint="1 leaves distributions as they are"
        )


def generalised_jsd(student: Tensor, teacher: Tensor, *, beta: float, temperature: float = 1.0) -> Tensor:
    """JSD(beta) of each position in nats [N] fp32, with the student's gradient; logits [N, V] of both."""
    check_divergence(beta, temperature)
    assert student.ndim == 2 and student.shape == teacher.shape, (student.shape, teacher.shape)
    own = torch.log_softmax(student.float() / temperature, -1)
    return divergence(own, torch.log_softmax(teacher.detach().float() / temperature, -1), beta)


def top_k_jsd(
    student: Tensor,
    ids: Tensor,
    teacher_logprobs: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    rest: Rest = "bucket",
) -> Tensor:
    """JSD(beta) of each position [N] where the teacher is known by its k likeliest tokens.

    student [N, V] logits; ids [N, K] int64, -1 where fewer are known (never in the first place); teacher_logprobs
    [N, K] at the same `temperature`, with `rest` "bucket" those of the whole vocabulary.
    """
    own, theirs = top_k_events(student, ids, teacher_logprobs, temperature=temperature, rest=rest)
    check_divergence(beta, temperature)
    return divergence(own, theirs, beta)


def top_k_events(
    student: Tensor, ids: Tensor, teacher_logprobs: Tensor, *, temperature: float = 1.0, rest: Rest = "bucket"
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the events that `top_k_jsd` compares, student and teacher, [N, K] or [N, K + 1] each."""
    assert ids.shape == teacher_logprobs.shape and len(ids) == len(student), (student.shape, ids.shape)
    known = ids >= 0
    assert bool(known[:, 0].all()), "a position without a single token of the teacher"
    places = torch.where(known, ids, ids[:, :1])
    every = torch.log_softmax(student.float() / temperature, -1)
    own = torch.where(known, every.gather(1, places), NEVER)
    theirs = torch.where(known, teacher_logprobs.detach().float(), NEVER)
    if rest == "renormalise":
        return own - own.logsumexp(1, keepdim=True), theirs - theirs.logsumexp(1, keepdim=True)
    left = (1 - theirs.exp().sum(1, keepdim=True)).clamp(min=REST_FLOOR).log()
    others = every.scatter(1, places, NEVER).logsumexp(1, keepdim=True)
    # Where all of the vocabulary is named nothing is left over, and its floor would be compared with an exact 0.
    nothing = known.sum(1, keepdim=True) >= student.shape[1]
    return torch.cat([own, others.masked_fill(nothing, NEVER)], 1), torch.cat(
        [theirs, left.masked_fill(nothing, NEVER)], 1
    )


def divergence(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """JSD(beta) [N] of two distributions over the same events, given as finite log-probabilities [N, E] each."""
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    share = student.new_tensor(beta)
    mixture = torch.logaddexp(student + torch.log1p(-share), teacher + share.log())
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def kl(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other) [N] of log-probabilities [N, E]."""
    return (one.exp() * (one - other)).sum(-1)


def sampled_reverse_kl(logprobs: Tensor, old_logprobs: Tensor, teacher_logprobs: Tensor) -> LossTerm:
    """Policy gradient of KL(s || t) over N sampled tokens: -w (log t - log s_old), w = s / s_old; weight N.

    logprobs [N] with gradient, old_logprobs (of the policy that sampled) and teacher_logprobs [N] without. What a token
    is worth is its own log ratio alone. The metric `kl` is the mean of log s_old - log t: an unbiased estimate of the
    divergence, which can be negative.
    """
    assert logprobs.ndim == 1 and logprobs.shape == old_logprobs.shape == teacher_logprobs.shape
    worth = (teacher_logprobs - old_logprobs).detach()
    ratio = torch.exp(logprobs - old_logprobs.detach())
    total = -(ratio * worth).sum()
    return LossTerm(
        total, total.new_tensor(float(logprobs.numel())), {"kl": mean_metric(-worth), "ratio": mean_metric(ratio)}
    )
