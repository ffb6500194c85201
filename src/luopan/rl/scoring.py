"""What a model makes of rollouts that another, or an earlier one, has written: log-probabilities, values.

Documents are packed as for training, so the numbers are those that the trainer would compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, Doc, collate
from luopan.tokens.packing import best_fit_decreasing
from luopan.train.device import autocast
from luopan.train.losses import token_scores

TokenValues = Callable[[Batch], tuple[Tensor, Tensor]]
"""A batch to (values [N] of its trained tokens, their flat places [N])."""


def token_logprobs(
    model: Decoder, docs: Sequence[Doc], *, temperature: float, max_length: int, pad_id: int, precision: str
) -> list[list[float]]:
    """For each document, aligned with its tokens, the log-probabilities of the trained ones; 0 elsewhere."""

    def score(batch: Batch) -> tuple[Tensor, Tensor]:
        scores = token_scores(model, batch, temperature)
        return scores.logprobs, scores.places

    device = next(model.parameters()).device
    return token_values(score, docs, device=device, max_length=max_length, pad_id=pad_id, precision=precision)


@torch.no_grad()
def token_values(
    score: TokenValues, docs: Sequence[Doc], *, device: torch.device, max_length: int, pad_id: int, precision: str
) -> list[list[float]]:
    """For each document, aligned with its tokens, what `score` says of the trained ones; 0 elsewhere."""
    found: list[list[float]] = [[] for _ in docs]
    for numbers in best_fit_decreasing([len(doc) for doc in docs], max_length):
        batch = collate([[docs[number] for number in numbers]], max_length, pad_id).to(device)
        with autocast(device, precision):
            values, places = score(batch)
        column = torch.zeros(max_length)
        column[places.cpu()] = values.float().cpu()
        start = 0
        for number in numbers:
            found[number] = column[start : start + len(docs[number])].tolist()
            start += len(docs[number])
    return found
