"""Log-probabilities of given tokens, per token and per document: what DPO, GRPO and scoring are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from luopan.errors import RecipeError


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[target], fp32, [N].

    logits [N, V], targets [N] int64. `temperature` must be the one the tokens were sampled with when the result is
    compared with the sampler's log-probabilities. RecipeError if it is not above 0.
    """
    check_temperature(temperature)
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


def check_temperature(temperature: float) -> None:
    """RecipeError if it is not above 0."""
    if not temperature > 0:
        raise RecipeError(
            f"temperature is {temperature}: tokens chosen greedily have no log-probability under it",
            hint="sample with a temperature above 0",
        )


def token_entropies(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature), fp32, [N] for logits [N, V]."""
    logprobs = F.log_softmax(logits.float() / temperature, dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def sum_by_document(values: Tensor, document: Tensor, num_documents: int) -> Tensor:
    """[D]: the sum of values [N] over the tokens of each document, document [N] int64 in 0..D-1; 0 where it has none.

    On CUDA the order of the additions, and so the last bit, may change from run to run.
    """
    return values.new_zeros(num_documents).index_add(0, document, values)
