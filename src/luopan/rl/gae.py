"""What an answer's tokens were worth, in numpy and double precision: a reward per token, advantages, whitening.

An answer is an episode: each token an action, the value of a token that of the state before it, and after the last
token there is nothing to come (value 0), whether it was the stop token or the length that ended it. Everything here
works on whole generations, so nothing depends on micro-batches or ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
"""A number per token of one answer."""
KlEstimator = Literal["k1", "k3"]

VARIANCE_EPSILON = 1e-8  # TRL's


def kl_per_token(logprobs: Column, reference: Column, estimator: KlEstimator) -> Column:
    """An estimate of KL(pi, pi_ref) at each sampled token (Schulman 2020, http://joschu.net/blog/kl-approx.html).

    k1 = log pi - log pi_ref: unbiased, and below 0 at some tokens. k3 = e^d - 1 - d with d = log pi_ref - log pi: never
    below 0 and of less variance; as a reward its gradient is not that of the KL.
    """
    if estimator == "k1":
        return logprobs - reference
    difference = reference - logprobs
    return np.expm1(difference) - difference


def token_rewards(score: float, kl: Column | None, kl_coef: float, length: int) -> Column:
    """The answer's reward at its last token, less the price of the divergence at every token."""
    rewards = np.zeros(length) if kl is None else -kl_coef * kl
    rewards[-1] += score
    return rewards


def gae(rewards: Column, values: Column, gamma: float = 1.0, lam: float = 0.95) -> tuple[Column, Column]:
    """(advantages, returns) of one answer by generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438).

    delta_t = r_t + gamma v_{t+1} - v_t; advantage_t = delta_t + gamma lam advantage_{t+1}; return_t = advantage_t + v_t
    """
    assert rewards.shape == values.shape and rewards.ndim == 1
    following = np.append(values[1:], 0.0)
    deltas = rewards + gamma * following - values
    advantages = np.empty_like(deltas)
    last = 0.0
    for place in range(len(deltas) - 1, -1, -1):
        last = deltas[place] + gamma * lam * last
        advantages[place] = last
    return advantages, advantages + values


def whiten(columns: Sequence[Column], *, shift_mean: bool = True) -> list[Column]:
    """All tokens of all answers together to variance 1 (with Bessel's correction), and to mean 0 if `shift_mean`."""
    if not columns:
        return []
    joined = np.concatenate(columns)
    if joined.size < 2:  # one token has no variance
        return [column - column if shift_mean else column.copy() for column in columns]
    mean, scale = joined.mean(), 1.0 / np.sqrt(joined.var(ddof=1) + VARIANCE_EPSILON)
    return [(column - mean) * scale + (0.0 if shift_mean else mean) for column in columns]


def explained_variance(values: Sequence[Column], returns: Sequence[Column]) -> float:
    """1 - Var(return - value) / Var(return) over all tokens: 1 for a value model that knows, 0 for one that says the
    same of every token, below 0 for one that is worse; NaN where returns do not vary."""
    value, target = np.concatenate(values), np.concatenate(returns)
    spread = float(target.var())
    return float(1.0 - (target - value).var() / spread) if spread else float("nan")


def next_kl_coef(coefficient: float, kl: float, *, target: float, answers: int, horizon: int) -> float:
    """The coefficient of the next generation, so that the divergence of an answer goes to `target`, in nats.

    coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * answers / horizon): Ziegler et al. 2019, arXiv:1909.08593,
    section 2.2, with its 0.1 as answers / horizon, so that the pace does not hang on the size of a generation.
    """
    error = min(0.2, max(-0.2, kl / target - 1.0))
    return coefficient * (1.0 + error * answers / horizon)
