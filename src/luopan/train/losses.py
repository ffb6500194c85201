"""Between a packed `Batch` and the pure objectives: runs the model, picks the trained positions, names the columns.

Each function is the `loss_fn` of a stage (bind the keyword arguments with functools.partial). The head runs on trained
positions only: on a chat batch most positions are prompt, and the logits are the largest tensor of the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.objectives.base import LossTerm, merge_metrics
from luopan.objectives.causal_lm import causal_lm
from luopan.objectives.logprobs import sum_by_document, token_entropies, token_logprobs
from luopan.objectives.policy import grpo
from luopan.objectives.preference import dpo
from luopan.tokens.batch import Batch

# Logits of one piece, in elements: 512 MiB of fp32. Larger ones are computed in pieces and again in the backward pass.
MAX_LOGITS = 2**27


def trained_hidden(model: Decoder, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states before each trained token [N, C], those tokens' ids [N], and their flat positions b*T+t [N]."""
    index, targets = batch.targets()
    hidden = model.hidden(batch.input_ids, batch.position_ids, batch.layout)  # [B, T, C]
    return hidden.flatten(0, 1)[index], targets, index + 1


def causal_lm_loss(model: Decoder, batch: Batch, *, max_logits: int = MAX_LOGITS) -> LossTerm:
    """Cross-entropy summed over the trained tokens; weight is their number."""
    hidden, targets, _ = trained_hidden(model, batch)
    rows = max(1, max_logits // model.config.vocab_size)
    if hidden.shape[0] <= rows:
        return causal_lm(model.logits(hidden), targets)
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    return summed([recompute(head_loss, model, h, t, use_reentrant=False) for h, t in pieces])


def head_loss(model: Decoder, hidden: Tensor, targets: Tensor) -> LossTerm:
    """The loss of one piece, small enough to be thrown away and computed again."""
    return causal_lm(model.logits(hidden), targets)


def summed(terms: list[LossTerm]) -> LossTerm:
    """Terms of the pieces of one batch as the term of the whole."""
    total = torch.stack([term.total for term in terms]).sum()
    weight = torch.stack([term.weight for term in terms]).sum()
    return LossTerm(total, weight, merge_metrics([term.metrics for term in terms]))


def token_scores(model: Decoder, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the trained tokens [N] fp32, the document of each [N], and its flat position [N]."""
    hidden, targets, places = trained_hidden(model, batch)
    logprobs = token_logprobs(model.logits(hidden), targets, temperature)
    return logprobs, batch.document_ids.flatten()[places], places


def sequence_logprobs(model: Decoder, batch: Batch) -> Tensor:
    """[D]: the summed log-probability of each document's trained tokens (0 where it has none)."""
    logprobs, document, _ = token_scores(model, batch)
    return sum_by_document(logprobs, document, batch.num_documents)


def preference_loss(model: Decoder, batch: Batch, **knobs: Any) -> LossTerm:
    """DPO over the pairs in the batch; `knobs` are those of `objectives.preference.dpo` (beta, loss_type, …).

    per_document: `pair` (any number, the same for the two answers), `is_chosen`, `reference_logprob` (of the trained
    tokens, summed). Both answers of a pair must be in this micro-batch, and have trained tokens: TrainingError else.
    """
    fields = required(batch.per_document, "pair", "is_chosen", "reference_logprob")
    pair, is_chosen, reference = fields["pair"], fields["is_chosen"].bool(), fields["reference_logprob"]
    chosen, rejected = pair_documents(pair, is_chosen)  # [P] each, indices of documents
    logprobs, document, _ = token_scores(model, batch)
    sums = sum_by_document(logprobs, document, pair.shape[0])  # [D]
    lengths = sum_by_document(torch.ones_like(logprobs), document, pair.shape[0])  # [D]
    if not bool((lengths > 0).all()):
        raise TrainingError(
            "an answer of a preference pair has no trained token",
            hint="Every document of a pair needs labels; look for answers that were cut off by max_length.",
        )
    return dpo(
        sums[chosen],
        sums[rejected],
        reference[chosen],
        reference[rejected],
        chosen_lengths=lengths[chosen],
        rejected_lengths=lengths[rejected],
        nll=-sums[chosen] / lengths[chosen],
        **knobs,
    )


def pair_documents(pair: Tensor, is_chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Documents of the chosen and of the rejected answers, [P] each, in the same order of pairs."""
    order = torch.argsort(pair * 2 + (~is_chosen).to(pair.dtype))
    chosen, rejected = order[0::2], order[1::2]
    whole = order.numel() % 2 == 0 and bool(
        (pair[chosen] == pair[rejected]).all() & is_chosen[chosen].all() & ~is_chosen[rejected].any()
    )
    if not whole:
        raise TrainingError(
            "a preference pair is not whole in its micro-batch",
            hint="Put the chosen and the rejected answer of a pair into the same micro-batch.",
        )
    return chosen, rejected


def policy_loss(
    model: Decoder, batch: Batch, *, temperature: float = 1.0, entropy: bool = False, **knobs: Any
) -> LossTerm:
    """GRPO over the completions in the batch; `knobs` are those of `objectives.policy.grpo` (epsilon, loss_type, …).

    Every document is one completion with its prompt; its trained tokens are the completion. per_token:
    `old_logprobs`, and `reference_logprobs` where `beta` > 0, aligned with input_ids; per_document: `advantage`.
    `temperature` is the one it was sampled with. With `entropy` the policy's entropy is reported.
    """
    advantages = required(batch.per_document, "advantage")["advantage"]  # [D]
    names = ("old_logprobs", "reference_logprobs") if knobs.get("beta") else ("old_logprobs",)
    columns = required(batch.per_token, *names)
    hidden, targets, places = trained_hidden(model, batch)
    logits = model.logits(hidden)
    document = batch.document_ids.flatten()[places]
    picked = {name: columns[name].flatten()[places] for name in names}
    return grpo(
        token_logprobs(logits, targets, temperature),
        picked["old_logprobs"],
        advantages[document],
        document,
        advantages.shape[0],
        reference_logprobs=picked.get("reference_logprobs"),
        entropies=token_entropies(logits.detach(), temperature) if entropy else None,
        **knobs,
    )


def required(columns: Any, *names: str) -> dict[str, Tensor]:
    """The named columns of a batch; TrainingError naming what is missing."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise TrainingError(f"the batch lacks {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    return {name: columns[name] for name in names}
