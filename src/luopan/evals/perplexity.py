"""Perplexity of answers, given their prompts: how surprised a model is by what was said.

On answers that another model drew at temperature 1 the difference of the two mean losses estimates their
Kullback–Leibler divergence per token, without bias: 0 where nothing has changed, whatever the answers are worth. On
greedy answers it would not be one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luopan.errors import DataError
from luopan.generate.score import continuation_logprobs
from luopan.model.decoder import Decoder


@dataclass(frozen=True)
class Perplexity:
    """Nats summed over so many tokens."""

    nats: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def value(self) -> float:
        """exp of the loss: among how many tokens the model wavers."""
        return math.exp(self.loss)

    def rise(self, after: Perplexity) -> float:
        """By which share perplexity is higher afterwards: 0.03 is 3%."""
        return math.expm1(after.loss - self.loss)


def answer_perplexity(model: Decoder, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Perplexity:
    """Over every token of the answers, a stop token included, each given its prompt and what was said before it.

    DataError if there is no token to score, or a prompt with its answer is longer than the model's context.
    """
    assert len(prompts) == len(answers), f"{len(prompts)} prompts, {len(answers)} answers"
    whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers)]
    scores = continuation_logprobs(model, whole, [len(prompt) for prompt in prompts])
    tokens = sum(map(len, scores))
    if not tokens:
        raise DataError("there is no answer to measure perplexity on")
    return Perplexity(-math.fsum(value for row in scores for value in row), tokens)
