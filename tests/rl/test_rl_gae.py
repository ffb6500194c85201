"""Advantages and what goes into them: by hand, and against sums written out from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from luopan.rl.gae import explained_variance, gae, kl_per_token, next_kl_coef, token_rewards, whiten


def test_gae_by_hand() -> None:
    # gamma 1, lam 0.5: deltas 0 + 2 - 1 = 1; 0 + 4 - 2 = 2; 3 - 4 = -1. Advantages -1; 2 - 0.5 = 1.5; 1 + 0.75 = 1.75.
    advantages, returns = gae(np.array([0.0, 0.0, 3.0]), np.array([1.0, 2.0, 4.0]), gamma=1.0, lam=0.5)
    assert advantages.tolist() == [1.75, 1.5, -1.0]
    assert returns.tolist() == [2.75, 3.5, 3.0]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_weighted_mean_of_n_step_advantages(gamma: float, lam: float) -> None:
    """Equation 16 of arXiv:1506.02438, every sum written out."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=7), rng.normal(size=7)
    after = [*values, 0.0]
    deltas = [rewards[t] + gamma * after[t + 1] - values[t] for t in range(7)]
    wanted = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, 7)) for t in range(7)]
    advantages, returns = gae(rewards, values, gamma, lam)
    assert advantages == pytest.approx(wanted, abs=1e-12)
    assert returns == pytest.approx(advantages + values)
    if lam == 1.0:  # what really came, less what was expected
        assert returns == pytest.approx([sum(gamma ** (k - t) * rewards[k] for k in range(t, 7)) for t in range(7)])


def test_whitening_is_over_all_tokens_of_all_answers() -> None:
    # 1, 2, 3, 6: mean 3, variance with Bessel (4 + 1 + 0 + 9) / 3
    white = whiten([np.array([1.0, 2.0]), np.array([3.0, 6.0])])
    spread = math.sqrt(14 / 3 + 1e-8)
    assert np.concatenate(white) == pytest.approx([-2 / spread, -1 / spread, 0.0, 3 / spread])
    kept = np.concatenate(whiten([np.array([1.0, 2.0]), np.array([3.0, 6.0])], shift_mean=False))
    assert kept == pytest.approx([3 - 2 / spread, 3 - 1 / spread, 3.0, 3 + 3 / spread])
    padded, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 6.0, -7.0]]), torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    variance, mean = torch.var_mean(padded[mask], correction=1)
    assert np.concatenate(white) == pytest.approx(((padded[mask] - mean) / (variance + 1e-8).sqrt()).numpy(), abs=1e-5)


def test_a_single_token_and_equal_tokens_are_whitened_to_nothing() -> None:
    assert whiten([]) == []
    assert whiten([np.array([5.0])])[0].tolist() == [0.0]
    assert whiten([np.array([5.0, 5.0])])[0].tolist() == [0.0, 0.0]


def test_kl_estimates_by_hand() -> None:
    logprobs, reference = np.array([math.log(0.5), math.log(0.2)]), np.array([math.log(0.25), math.log(0.4)])
    assert kl_per_token(logprobs, reference, "k1") == pytest.approx([math.log(2), -math.log(2)])
    # ratios ref/pi 1/2 and 2: r - 1 - ln r
    assert kl_per_token(logprobs, reference, "k3") == pytest.approx([math.log(2) - 0.5, 1 - math.log(2)])


def test_both_estimates_have_the_mean_of_the_divergence() -> None:
    policy, reference = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.5, 0.3])
    exact = float((policy * np.log(policy / reference)).sum())
    for estimator in ("k1", "k3"):
        values = kl_per_token(np.log(policy), np.log(reference), estimator)  # type: ignore[arg-type]
        assert float((policy * values).sum()) == pytest.approx(exact)


def test_the_reward_comes_at_the_last_token_and_the_price_at_each() -> None:
    assert token_rewards(2.0, np.array([1.0, -0.5, 3.0]), 0.1, 3) == pytest.approx([-0.1, 0.05, 1.7])
    assert token_rewards(2.0, None, 0.0, 3).tolist() == [0.0, 0.0, 2.0]


def test_explained_variance() -> None:
    returns = [np.array([1.0, 2.0]), np.array([3.0])]
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance([np.full(2, 7.0), np.full(1, 7.0)], returns) == pytest.approx(0.0)
    assert explained_variance([-returns[0], -returns[1]], returns) == pytest.approx(-3.0)
    assert math.isnan(explained_variance([np.ones(2)], [np.ones(2)]))


def test_the_coefficient_follows_the_divergence() -> None:
    knobs = {"target": 6.0, "answers": 100, "horizon": 1000}
    assert next_kl_coef(0.2, 6.0, **knobs) == pytest.approx(0.2)
    assert next_kl_coef(0.2, 6.6, **knobs) == pytest.approx(0.2 * 1.01)  # 10% too far, a tenth of the horizon
    assert next_kl_coef(0.2, 60.0, **knobs) == pytest.approx(0.2 * 1.02)  # no more than 20%
    assert next_kl_coef(0.2, 0.0, **knobs) == pytest.approx(0.2 * 0.98)
    assert next_kl_coef(0.2, -3.0, **knobs) == pytest.approx(0.2 * 0.98)
