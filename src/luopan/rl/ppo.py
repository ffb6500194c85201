"""What PPO makes of a generation of graded answers: a reward per token, values, advantages and returns, as documents.

All of it is worked out once, from the weights that sampled, for the whole generation; the passes over it only read it.
Values and the reference's log-probabilities are those that the trainer would compute (`luopan.rl.scoring`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from luopan.rl.gae import (
    Column,
    KlEstimator,
    explained_variance,
    gae,
    kl_per_token,
    next_kl_coef,
    token_rewards,
    whiten,
)
from luopan.tokens.batch import Doc


@dataclass(frozen=True)
class PpoSettings:
    """How rewards become advantages. `kl_target`, in nats per answer, makes the coefficient adapt from `kl_coef` on, by
    20% at most per `kl_horizon` answers. `kl_coef` 0: no reference."""

    kl_coef: float = 0.05
    kl_estimator: KlEstimator = "k1"
    kl_target: float | None = None
    kl_horizon: int = 10_000
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False


def with_returns(
    docs: Sequence[Doc],
    scores: Sequence[float],
    values: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]] | None,
    settings: PpoSettings,
    kl_coef: float,
) -> tuple[list[Doc], dict[str, float]]:
    """The documents with the columns that `ppo_loss` reads, and the generation's figures.

    docs: an answer each, with the column `old_logprobs` and only the answer's tokens trained. scores: what each answer
    earned. values, reference: columns aligned with the documents' tokens.
    """
    spans = [slice(len(doc) - doc.num_trained, len(doc)) for doc in docs]
    old = [np.asarray(doc.per_token["old_logprobs"], np.float64)[span] for doc, span in zip(docs, spans)]
    held = [np.asarray(column, np.float64)[span] for column, span in zip(values, spans, strict=True)]
    prices: list[Column | None] = [None] * len(docs)
    if reference is not None:
        known = [np.asarray(column, np.float64)[span] for column, span in zip(reference, spans, strict=True)]
        prices = [kl_per_token(mine, theirs, settings.kl_estimator) for mine, theirs in zip(old, known)]
    rewards = [
        token_rewards(score, price, kl_coef, len(mine)) for score, price, mine in zip(scores, prices, old, strict=True)
    ]
    if settings.whiten_rewards:
        rewards = whiten(rewards, shift_mean=False)
    pairs = [gae(reward, value, settings.gamma, settings.lam) for reward, value in zip(rewards, held)]
    returns = [later for _, later in pairs]
    advantages = whiten([advantage for advantage, _ in pairs])
    found = [
        replace(
            doc, per_token={**doc.per_token, **_columns(doc, span, advantages=a, old_values=v, returns=r)}, fields={}
        )
        for doc, span, a, v, r in zip(docs, spans, advantages, held, returns)
    ]
    figures = {
        "value": float(np.concatenate(held).mean()),
        "return": float(np.concatenate(returns).mean()),
        "explained_variance": explained_variance(held, returns),
    }
    if reference is not None:
        kl = float(np.mean([price.sum() for price in prices if price is not None]))
        figures |= {"kl": kl, "kl_coef": kl_coef, "reward_less_kl": float(np.mean(scores)) - kl_coef * kl}
    return found, figures


def carried(settings: PpoSettings, kl_coef: float, kl: float, answers: int) -> dict[str, float]:
    """What the next generation's coefficient is made of; empty where it is fixed."""
    if settings.kl_target is None:
        return {}
    after = next_kl_coef(kl_coef, kl, target=settings.kl_target, answers=answers, horizon=settings.kl_horizon)
    return {"kl_coef": after}


def _columns(doc: Doc, span: slice, **answer: Column) -> dict[str, list[float]]:
    """Columns of the answer's tokens as columns of the document's, 0 at the prompt."""
    return {name: [0.0] * span.start + column.tolist() for name, column in answer.items()}
