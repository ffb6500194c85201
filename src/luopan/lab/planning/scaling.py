"""Published fits between parameters, tokens, compute, learning rate and batch: brackets, not answers.

Symbols: N parameters, D tokens, C = 6 N D FLOPs. Each fit was made on other data, tokenizers and schedules than yours;
for SmolLM3 the two learning-rate fits give 3.3e-3 and 3.8e-4 where 2e-4 was used. What decides is a sweep at your own
scale (`luopan sweep`, `luopan scale`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = e + a / N^alpha + b / D^beta, in nats per token."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    source: str

    def loss(self, parameters: float, tokens: float) -> float:
        return self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) with the lowest loss among those that cost 6 N D = `flops` (Hoffmann et al. 2022, equation 4)."""
        total = self.alpha + self.beta
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / total)
        parameters = ratio * (flops / 6) ** (self.beta / total)
        return parameters, flops / 6 / parameters

    def optimal_tokens(self, parameters: float) -> float:
        """The D for which `parameters` is the best size of its compute."""
        total = self.alpha + self.beta
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / total)
        flops = 6 * (parameters / ratio) ** (total / self.beta)
        return flops / 6 / parameters


HOFFMANN = LossLaw(1.69, 406.4, 410.7, 0.34, 0.28, "Hoffmann et al. 2022, arXiv:2203.15556 (rounded as printed)")
BESIROGLU = LossLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658, "Besiroglu et al. 2024, arXiv:2404.10102, a refit")


def step_law(parameters: float, tokens: float) -> tuple[float, float]:
    """(learning rate, tokens a batch) of the Step Law (Li et al. 2025, arXiv:2503.04715); N without embeddings."""
    return 1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def deepseek_law(flops: float) -> tuple[float, float]:
    """(learning rate, tokens a batch) of DeepSeek LLM (arXiv:2401.02954, section 3.1)."""
    return 0.3118 * flops**-0.125, 0.292 * flops**0.3271


def effective_tokens(unique: float, epochs: float, half_life: float = 15.4) -> float:
    """What repeated tokens are worth in fresh ones: U + U R* (1 - exp(-R / R*)), R repetitions after the first reading
    (Muennighoff et al. 2023, arXiv:2305.16264)."""
    repeats = max(0.0, epochs - 1)
    return unique * min(epochs, 1.0) + unique * half_life * (1 - math.exp(-repeats / half_life))


@dataclass(frozen=True)
class Position:
    """Where a training stands: tokens per parameter, over those that the law calls best for the same size, the loss
    that the law gives, and the best (N, D) for the same compute."""

    tokens_per_parameter: float
    over: float
    loss: float
    best_parameters: float
    best_tokens: float


def position(parameters: float, tokens: float, law: LossLaw = BESIROGLU) -> Position:
    """See `Position`."""
    best = law.optimum(6 * parameters * tokens)
    return Position(
        tokens / parameters, tokens / law.optimal_tokens(parameters), law.loss(parameters, tokens), best[0], best[1]
    )
