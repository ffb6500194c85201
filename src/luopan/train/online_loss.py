"""The preference losses over pairs that were sampled in training, of which some may be idle (`rl.online_pairs`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from luopan.model.decoder import Decoder
from luopan.objectives.base import LossTerm
from luopan.objectives.config import needs_reference
from luopan.objectives.preference import dpo
from luopan.tokens.batch import Batch
from luopan.train.losses import answer_logprobs, pair_documents, required


def online_preference_loss(model: Decoder, batch: Batch, **knobs: Any) -> LossTerm:
    """As `train.losses.preference_loss`; pairs whose `idle` is true have a loss of 0 and are counted in the weight.

    So an update in which only some prompts gave a pair takes a step that is smaller by as much.
    """
    referenced = needs_reference(knobs.get("loss_type", "sigmoid"))
    names = ("pair", "is_chosen", "idle", *(["reference_logprob"] if referenced else []))
    fields = required(batch.per_document, *names)
    chosen, rejected = pair_documents(fields["pair"], fields["is_chosen"].bool())  # [P]
    sums, lengths = answer_logprobs(model, batch, fields["pair"].shape[0])
    live = ~fields["idle"].bool()[chosen]
    good, bad = chosen[live], rejected[live]

    def reference(side: Tensor) -> Tensor | None:
        return fields["reference_logprob"][side] if referenced else None

    term = dpo(
        sums[good],
        sums[bad],
        reference(good),
        reference(bad),
        chosen_lengths=lengths[good],
        rejected_lengths=lengths[bad],
        **knobs,
    )
    return LossTerm(term.total, term.total.new_tensor(float(chosen.numel())), term.metrics)
