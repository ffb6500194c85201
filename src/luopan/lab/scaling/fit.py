"""L(N, D) = E + A / N^alpha + B / D^beta, fitted to trainings as Hoffmann et al. 2022 do (arXiv:2203.15556, D.3).

The Huber loss (delta 1e-3) of log L is minimised over (log E, log A, log B, alpha, beta) by Levenberg-Marquardt with
reweighting, from a grid of starts at once; the best end counts. Intervals come from fits to resampled points
(bootstrap), which is where Besiroglu et al. 2024 (arXiv:2404.10102) found the printed ones too narrow.

Limits: five numbers from fewer than a dozen points, or from points of nearly one size or one number of tokens, are
guesses, and wide intervals are how it shows. L may be in any unit per token or byte, one for all points.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from luopan.errors import DataError
from luopan.lab.planning.scaling import LossLaw

Array = NDArray[np.float64]
DELTA = 1e-3
ROUNDS = 200
FEWEST = 6  # points
# Starts: log E, log A, log B, alpha, beta; coarser than Hoffmann's, whose 4,500 starts end in a handful of places.
GRID = ((-1.0, 0.0, 1.0), (0.0, 4.0, 8.0, 14.0), (0.0, 4.0, 8.0, 14.0), (0.1, 0.35, 0.7), (0.1, 0.35, 0.7))


@dataclass(frozen=True)
class Fit:
    """`law` of all points; `samples` [S, 5] (e, a, b, alpha, beta) of the resampled ones; `error`: root mean square of
    log L, of the points it was made from."""

    law: LossLaw
    samples: Array
    error: float
    points: int

    def interval(self, name: str, level: float = 0.8) -> tuple[float, float]:
        """Of `e`, `a`, `b`, `alpha`, `beta`, or `exponent`: what compute-optimal size grows with, N ~ C^exponent."""
        values = self._values(name)
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _values(self, name: str) -> Array:
        if name == "exponent":
            return self.samples[:, 4] / (self.samples[:, 3] + self.samples[:, 4])
        return self.samples[:, ("e", "a", "b", "alpha", "beta").index(name)]

    @property
    def exponent(self) -> float:
        return self.law.beta / (self.law.alpha + self.law.beta)

    def predict(self, parameters: float, tokens: float, level: float = 0.8) -> tuple[float, float, float]:
        """(loss, lower, upper end of the interval) of a training that was not seen."""
        e, a, b, alpha, beta = self.samples.T
        losses = e + a / parameters**alpha + b / tokens**beta
        low, high = np.quantile(losses, [(1 - level) / 2, (1 + level) / 2])
        return self.law.loss(parameters, tokens), float(low), float(high)


def fit_law(
    parameters: Array | list[float],
    tokens: Array | list[float],
    losses: Array | list[float],
    *,
    bootstrap: int = 200,
    seed: int = 0,
) -> Fit:
    """The law of n trainings. DataError for too few points, values not above 0, or points of one size."""
    n, d, loss = (np.asarray(values, np.float64) for values in (parameters, tokens, losses))
    _check(n, d, loss)
    # Centred logs: the search is then well conditioned whatever the unit of size and tokens is.
    at_n, at_d = float(np.log(n).mean()), float(np.log(d).mean())
    x, y, z = np.log(n) - at_n, np.log(d) - at_d, np.log(loss)
    starts = np.array(list(product(*GRID)))
    starts[:, 0] += z.min() - 0.5
    starts[:, 1] += z.min() - 8.0
    starts[:, 2] += z.min() - 8.0
    ends, costs = _solve(starts, x, y, z, np.ones((1, len(z))))
    best = ends[int(np.nanargmin(costs))]
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(len(z), np.full(len(z), 1 / len(z)), bootstrap).astype(np.float64)
    near = best + draw.normal(0, 0.05, (bootstrap, 5))
    near[0] = best
    again, _ = _solve(near, x, y, z, counts)
    samples = np.array([_natural(one, at_n, at_d) for one in again])
    e, a, b, alpha, beta = _natural(best, at_n, at_d)
    residual = _predicted(best[None], x, y)[0][0] - z
    law = LossLaw(float(e), float(a), float(b), float(alpha), float(beta), "fitted to your trainings")
    return Fit(law, samples, float(np.sqrt(np.mean(residual**2))), len(z))


def _check(n: Array, d: Array, loss: Array) -> None:
    if not len(n) == len(d) == len(loss) >= FEWEST:
        raise DataError(
            f"{len(n)} trainings are too few for five numbers", hint=f"{FEWEST} at least, a dozen is better"
        )
    for name, values in (("parameters", n), ("tokens", d), ("loss", loss)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise DataError(f"{name} must be above 0 everywhere", hint="leave out trainings that diverged")
    for name, values in (("parameters", n), ("tokens", d)):
        if values.max() / values.min() < 1.5:
            raise DataError(
                f"all trainings have nearly the same {name} ({values.min():.3g} to {values.max():.3g})",
                hint="Vary both over a factor of several: a law cannot be seen in one point.",
            )


def _predicted(theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """log L [S, n] and its derivatives [S, n, 5] for parameters [S, 5]."""
    e, a, b, alpha, beta = (theta[:, i : i + 1] for i in range(5))
    terms = np.stack([np.broadcast_to(e, (len(theta), len(x))), a - alpha * x, b - beta * y])  # [3, S, n]
    top = terms.max(0)
    whole = top + np.log(np.exp(terms - top).sum(0))
    shares = np.exp(terms - whole)
    return whole, np.stack([shares[0], shares[1], shares[2], -shares[1] * x, -shares[2] * y], -1)


def _cost(residual: Array, weights: Array) -> Array:
    size = np.abs(residual)
    return (weights * np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA))).sum(-1)


def _solve(theta: Array, x: Array, y: Array, z: Array, counts: Array) -> tuple[Array, Array]:
    """(ends [S, 5], costs [S]) of the search from every start, all at once; `counts` [S or 1, n] weigh the points."""
    theta, damping = theta.copy(), np.full(len(theta), 1e-2)
    value, slope = _predicted(theta, x, y)
    cost = _cost(value - z, counts)
    for _ in range(ROUNDS):
        residual = value - z
        weights = counts * np.minimum(1.0, DELTA / np.maximum(np.abs(residual), 1e-12))  # Huber's, as least squares
        weighted = slope * weights[..., None]
        normal = np.einsum("sni,snj->sij", weighted, slope)
        # A floor under the diagonal: a direction that the points say nothing of is not walked along.
        ridge = damping[:, None] * (np.einsum("sii->si", normal) + 1e-9)
        step = np.linalg.solve(
            normal + ridge[..., None] * np.eye(5), np.einsum("sni,sn->si", weighted, residual)[..., None]
        )
        trial = theta - step[..., 0]
        trial[:, 3:] = np.clip(trial[:, 3:], 1e-3, 3.0)
        trial[:, :3] = np.clip(trial[:, :3], -40.0, 40.0)
        new_value, new_slope = _predicted(trial, x, y)
        new_cost = _cost(new_value - z, counts)
        better = new_cost < cost
        theta[better], value[better], slope[better] = trial[better], new_value[better], new_slope[better]
        gained = (cost - np.where(better, new_cost, cost)) / np.maximum(cost, 1e-30)
        cost = np.where(better, new_cost, cost)
        damping = np.where(better, damping / 3, damping * 4).clip(1e-12, 1e9)
        if not (gained > 1e-10).any() and (damping > 1e3).mean() > 0.5:
            break
    return theta, cost


def _natural(theta: Array, at_n: float, at_d: float) -> Array:
    """(E, A, B, alpha, beta) of a centred solution."""
    e, a, b, alpha, beta = theta
    return np.array([np.exp(e), np.exp(a + alpha * at_n), np.exp(b + beta * at_d), alpha, beta])


def fit_power(x: Array | list[float], y: Array | list[float]) -> tuple[float, float]:
    """(coefficient, exponent) of y = coefficient * x^exponent by least squares of the logs."""
    slope, height = np.polyfit(np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64)), 1)
    return float(np.exp(height)), float(slope)


def best_of_parabola(x: Array | list[float], y: Array | list[float]) -> float:
    """The x of the lowest y, by a parabola through the logs of x; the best of the points where it has no minimum among
    them (its own optimum then lies at the edge of what was tried, or beyond)."""
    logs, values = np.log(np.asarray(x, np.float64)), np.asarray(y, np.float64)
    lowest = int(values.argmin())
    if len(logs) < 3:
        return float(np.exp(logs[lowest]))
    a, b, _ = np.polyfit(logs, values, 2)
    if a <= 0:
        return float(np.exp(logs[lowest]))
    return float(np.exp(np.clip(-b / (2 * a), logs.min(), logs.max())))
