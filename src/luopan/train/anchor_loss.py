"""Fine-tuning that holds on: next-token loss on what is taught, divergence from before on the model's own answers.

Documents name their tokens' places in the `Anchor` by the per-token value `anchor` (counted from 1; 0: none). Both
kinds of tokens count alike in the sum and in its weight, the divergence times `coef`; without any anchored token this
is `causal_lm_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from luopan.errors import ModelError
from luopan.model.decoder import Decoder
from luopan.model.head import linear_cross_entropy
from luopan.objectives.anchor import kept_divergence, top_logprobs
from luopan.objectives.base import LossTerm
from luopan.tokens.batch import Batch
from luopan.tokens.example import IGNORE, Example
from luopan.train.losses import head_weight, trained_states

ANCHOR = "anchor"  # the per-token value


@dataclass(frozen=True)
class Anchor:
    """What the model found likely before, at every trained token of the anchored documents."""

    ids: Tensor  # [N, k] int64
    logprobs: Tensor  # [N, k] fp32

    def to(self, device: torch.device) -> Anchor:
        return Anchor(self.ids.to(device), self.logprobs.to(device))


@torch.no_grad()
def take_anchor(model: Decoder, examples: Sequence[Example], k: int = 64) -> tuple[Anchor, list[Example]]:
    """The anchor of `examples`, and the same examples with their places in it. The model is the one before training."""
    device = next(model.parameters()).device
    ids, logprobs, placed, count = [], [], [], 0
    training = model.training
    model.eval()
    for example in examples:
        trained = [t for t in range(1, len(example)) if example.labels[t] != IGNORE]
        tokens = torch.tensor([list(example.input_ids)], device=device)
        before = torch.tensor([t - 1 for t in trained], device=device)
        top, values = top_logprobs(model.logits(model.hidden(tokens)[0, before]), k)
        ids.append(top)
        logprobs.append(values)
        places = [0.0] * len(example)
        for t in trained:
            count += 1
            places[t] = float(count)
        placed.append(replace(example, per_token={**example.per_token, ANCHOR: places}))
    model.train(training)
    if count >= 2**24:
        raise ModelError(f"{count:,} anchored tokens; fp32 counts to 16,777,215")
    return Anchor(torch.cat(ids), torch.cat(logprobs)), placed


def without_anchor(example: Example) -> Example:
    """The same example beside anchored ones: all documents of a batch have the same per-token values."""
    return replace(example, per_token={**example.per_token, ANCHOR: [0.0] * len(example)})


def anchor_loss(model: Decoder, batch: Batch, *, anchor: Anchor, coef: float) -> LossTerm:
    """Cross-entropy over tokens without an anchor plus `coef` times the divergence over those with one; see module."""
    states = trained_states(model, batch)
    weight, softcap = head_weight(model), model.config.final_logit_softcapping
    place = batch.per_token[ANCHOR].flatten()[states.places].long()  # [N]
    held = place > 0
    taught, _ = linear_cross_entropy(states.hidden[~held], weight, states.targets[~held], softcap=softcap)
    at = place[held] - 1
    moved = kept_divergence(states.hidden[held], weight, anchor.ids[at], anchor.logprobs[at], softcap=softcap)
    total = taught + coef * moved
    if states.routing is not None:
        total = total + states.routing.sum()
    count, anchored = (total.new_tensor(float(n)) for n in (states.targets.numel(), at.numel()))
    metrics = {"cross_entropy": (taught.detach(), count - anchored), "divergence": (moved.detach(), anchored)}
    return LossTerm(total, count, metrics)
