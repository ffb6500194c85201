"""Between a packed batch of pairs and the reward model's loss: the score of each document's last token."""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.model.decoder import Decoder
from luopan.model.reward import scores
from luopan.objectives.base import LossTerm
from luopan.objectives.reward import bradley_terry
from luopan.tokens.batch import Batch
from luopan.train.losses import pair_documents, required


def document_scores(model: Decoder, batch: Batch) -> Tensor:
    """[D] fp32: the reward at the last token of each document, found by position."""
    hidden, routing = model.hidden_and_routing(batch.input_ids, batch.position_ids, batch.layout)  # [B, T, C]
    if routing is not None and model.training and torch.is_grad_enabled():
        model.add_counts(routing.counts)
    return scores(model, hidden.flatten(0, 1)[last_tokens(batch)])


def last_tokens(batch: Batch) -> Tensor:
    """[D] flat positions of the last token of each document, in the order of the documents."""
    documents = batch.document_ids
    ends = documents >= 0
    ends[:, :-1] &= documents[:, :-1] != documents[:, 1:]
    return ends.flatten().nonzero().squeeze(1)


def reward_loss(model: Decoder, batch: Batch, *, center_rewards_coefficient: float = 0.0) -> LossTerm:
    """Bradley-Terry over the pairs in the batch.

    per_document: `pair`, `is_chosen`, and `margin` where the data has one. TrainingError for half a pair.
    """
    fields = required(batch.per_document, "pair", "is_chosen")
    chosen, rejected = pair_documents(fields["pair"], fields["is_chosen"].bool())
    rewards = document_scores(model, batch)
    margin = batch.per_document.get("margin")
    return bradley_terry(
        rewards[chosen],
        rewards[rejected],
        margin=None if margin is None else margin[chosen],
        center_rewards_coefficient=center_rewards_coefficient,
    )
