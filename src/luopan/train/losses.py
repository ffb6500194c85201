"""Between a packed `Batch` and the pure objectives: runs the model, picks the trained positions, names the columns.

Each function is the `loss_fn` of a stage (bind the keyword arguments with functools.partial). The head runs on trained
positions only (on a chat batch most positions are prompt), and piece by piece: see `luopan.model.head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.model.head import linear_cross_entropy, linear_logprobs, token_cross_entropy
from luopan.objectives.base import LossTerm, Metric, mean_metric
from luopan.objectives.config import needs_reference
from luopan.objectives.importance import truncated_weights
from luopan.objectives.kto import by_label, kto
from luopan.objectives.logprobs import check_temperature, sum_by_document
from luopan.objectives.policy import grpo
from luopan.objectives.preference import dpo
from luopan.tokens.batch import Batch
from luopan.tokens.rows import SOURCE
from luopan.train.window import source_loss

STALE = "stale"  # per_document: the weights are no longer those that sampled


def causal_lm_loss(model: Decoder, batch: Batch, *, z_loss_coef: float = 0.0, sources: Sequence[str] = ()) -> LossTerm:
    """Cross-entropy summed over the trained tokens, their number the weight; z-loss and the router's losses added.

    A z-loss (PaLM, arXiv:2204.02311) keeps the softmax's normaliser near 1. A mixture of experts adds its balance and
    router losses for each trained token (`luopan.model.moe`). With two or more `sources` the cross-entropy is told by
    source as well: per_document `source` is then each document's place in them (`luopan.tokens.rows`).
    """
    states = trained_states(model, batch)
    knobs: dict[str, Any] = {"softcap": model.config.final_logit_softcapping, "z_loss_coef": z_loss_coef}
    by_source: dict[str, Metric] = {}
    if len(sources) > 1:
        total, squares, losses = token_cross_entropy(states.hidden, head_weight(model), states.targets, **knobs)
        by_source = source_metrics(batch, states, losses, sources)
    else:
        total, squares = linear_cross_entropy(states.hidden, head_weight(model), states.targets, **knobs)
    weight = total.new_tensor(float(states.targets.numel()))
    metrics = {"z_loss": (squares.detach(), weight)} if z_loss_coef else {}
    if states.routing is not None:
        metrics["router_loss"] = (states.routing.detach().sum(), weight)
        metrics["cross_entropy"] = (total.detach() - z_loss_coef * squares, weight)
        total = total + states.routing.sum()
    return LossTerm(total, weight, {**metrics, **by_source})


@dataclass(frozen=True)
class States:
    """What the decoder made of a batch, at the N positions before a trained token."""

    hidden: Tensor  # [N, C]
    targets: Tensor  # [N] the trained tokens' ids
    places: Tensor  # [N] their flat positions b*T+t
    routing: Tensor | None  # [N] fp32, the router's losses (mixture of experts)


def source_metrics(batch: Batch, states: States, losses: Tensor, sources: Sequence[str]) -> dict[str, Metric]:
    """Of each source the sum of its tokens' losses [N] and their count; nothing waits for the device."""
    number = required(batch.per_document, SOURCE)[SOURCE]  # [D]
    own = number[batch.document_ids.flatten()[states.places]]  # [N]
    # A product with ones and zeros and not a scatter, whose order of additions differs from run to run on a GPU.
    member = (own == torch.arange(len(sources), device=own.device)[:, None]).to(losses)  # [S, N]
    sums, counts = (member * losses).sum(1).unbind(), member.sum(1).unbind()
    return {source_loss(name): pair for name, pair in zip(sources, zip(sums, counts))}


def trained_states(model: Decoder, batch: Batch, *, once: bool = False) -> States:
    """Runs the decoder over a batch. The router's counts, if there are any, go to the model.

    `once`: states and targets [U] of distinct tokens only, where the batch knows of equal ones (`Batch.once`).
    """
    index, targets, places = batch.targets()
    if once and batch.once is not None:
        index, targets = index[batch.once.first], targets[batch.once.first]
    hidden, routing = model.hidden_and_routing(batch.input_ids, batch.position_ids, batch.layout)  # [B, T, C]
    aux = None
    if routing is not None:
        if model.training and torch.is_grad_enabled():
            model.add_counts(routing.counts)
        aux = routing.aux.flatten()[index]
    return States(hidden.flatten(0, 1)[index], targets, places, aux)


def head_weight(model: Decoder) -> Tensor:
    """[V, C]: the output head, which may be the embedding."""
    return model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight


@dataclass(frozen=True)
class Scores:
    """What a model thinks of the N trained tokens of a batch."""

    logprobs: Tensor  # [N] fp32
    document: Tensor  # [N]
    places: Tensor  # [N] flat positions b*T+t
    entropies: Tensor | None  # [N] fp32, without gradient, where asked for


def token_scores(model: Decoder, batch: Batch, temperature: float = 1.0, entropy: bool = False) -> Scores:
    """Log-probabilities of the trained tokens under softmax(logits / temperature)."""
    check_temperature(temperature)
    states = trained_states(model, batch, once=True)
    logprobs, entropies = linear_logprobs(
        states.hidden,
        head_weight(model),
        states.targets,
        temperature=temperature,
        softcap=model.config.final_logit_softcapping,
        entropy=entropy,
    )
    if batch.once is not None:
        logprobs = logprobs.index_select(0, batch.once.of)
        entropies = None if entropies is None else entropies.index_select(0, batch.once.of)
    return Scores(logprobs, batch.document_ids.flatten()[states.places], states.places, entropies)


def sequence_logprobs(model: Decoder, batch: Batch) -> Tensor:
    """[D]: the summed log-probability of each document's trained tokens (0 where it has none)."""
    scores = token_scores(model, batch)
    return sum_by_document(scores.logprobs, scores.document, batch.num_documents)


def preference_loss(model: Decoder, batch: Batch, **knobs: Any) -> LossTerm:
    """The preference losses over the pairs in the batch; `knobs` are those of `objectives.preference.dpo`.

    per_document: `pair` (any number, the same for the two answers), `is_chosen`, and, for losses with a reference,
    `reference_logprob` (of the trained tokens, summed). Both answers of a pair must be in this micro-batch, and have
    trained tokens: TrainingError else.
    """
    referenced = needs_reference(knobs.get("loss_type", "sigmoid"))
    fields = required(batch.per_document, "pair", "is_chosen", *(["reference_logprob"] if referenced else []))
    pair, is_chosen = fields["pair"], fields["is_chosen"].bool()
    chosen, rejected = pair_documents(pair, is_chosen)  # [P] each, indices of documents
    sums, lengths = answer_logprobs(model, batch, pair.shape[0])
    reference = fields.get("reference_logprob")
    return dpo(
        sums[chosen],
        sums[rejected],
        None if reference is None else reference[chosen],
        None if reference is None else reference[rejected],
        chosen_lengths=lengths[chosen],
        rejected_lengths=lengths[rejected],
        **knobs,
    )


def answer_logprobs(model: Decoder, batch: Batch, documents: int) -> tuple[Tensor, Tensor]:
    """[D] each: the summed log-probability of each document's trained tokens, and their number, at least 1."""
    scores = token_scores(model, batch)
    lengths = sum_by_document(torch.ones_like(scores.logprobs), scores.document, documents)
    if not bool((lengths > 0).all()):
        raise TrainingError(
            "an answer of a preference pair has no trained token",
            hint="Every document of a pair needs labels; look for answers that were cut off by max_length.",
        )
    return sum_by_document(scores.logprobs, scores.document, documents), lengths


def kto_loss(model: Decoder, batch: Batch, **knobs: Any) -> LossTerm:
    """KTO over the answers in the batch; `knobs` are those of `objectives.kto.kto`.

    per_document: `label` (desirable or not), `mismatched` (an answer under a prompt that it does not answer: it only
    goes into the estimate of the KL), `reference_logprob`. The estimate is of a packed row.
    """
    fields = required(batch.per_document, "label", "mismatched", "reference_logprob")
    mismatched = fields["mismatched"].bool()
    sums, _ = answer_logprobs(model, batch, mismatched.shape[0])
    ratios = sums - fields["reference_logprob"]
    rows = row_of_document(batch)
    own, other = (~mismatched).nonzero().squeeze(1), mismatched.nonzero().squeeze(1)
    desirable = fields["label"].bool()[own]
    term = kto(
        ratios[own],
        desirable,
        rows[own],
        ratios[other],
        rows[other],
        num_groups=batch.document_ids.shape[0],
        **knobs,
    )
    return replace(term, metrics={**term.metrics, **by_label("logps", sums.detach()[own], desirable)})


def row_of_document(batch: Batch) -> Tensor:
    """[D] int64: which row of the batch each document is in."""
    documents = batch.document_ids
    rows = torch.arange(documents.shape[0], device=documents.device)[:, None].expand_as(documents)
    real = documents >= 0
    found = torch.zeros(batch.num_documents, dtype=torch.int64, device=documents.device)
    found[documents[real]] = rows[real]
    return found


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
    model: Decoder,
    batch: Batch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    importance_cap: float | None = None,
    token_advantages: bool = False,
    **knobs: Any,
) -> LossTerm:
    """A policy loss over the completions in the batch; `knobs` are those of `objectives.policy.grpo`.

    Every document is one completion with its prompt; its trained tokens are the completion. per_token, aligned with
    input_ids: `old_logprobs`, `reference_logprobs` where `beta` > 0, `sampled_logprobs` with an `importance_cap`,
    `advantages` with `token_advantages`; without it per_document `advantage`. `temperature` is the one it was sampled
    with. With `entropy` the policy's entropy is reported; `logprob_gap` always is.
    """
    asked = {
        "reference_logprobs": knobs.get("beta"),
        "sampled_logprobs": importance_cap,
        "advantages": token_advantages,
    }
    columns = required(batch.per_token, "old_logprobs", *(name for name, wanted in asked.items() if wanted))
    whole = {} if token_advantages else required(batch.per_document, "advantage")  # [D]
    scores = token_scores(model, batch, temperature, entropy)
    picked = {name: column.flatten()[scores.places] for name, column in columns.items()}
    weights = None
    if importance_cap is not None:
        weights = truncated_weights(picked["old_logprobs"], picked["sampled_logprobs"], importance_cap)
    term = grpo(
        scores.logprobs,
        picked["old_logprobs"],
        picked["advantages"] if token_advantages else whole["advantage"][scores.document],
        scores.document,
        batch.num_documents,
        reference_logprobs=picked.get("reference_logprobs"),
        importance_weights=weights,
        entropies=scores.entropies,
        **knobs,
    )
    metrics = {**term.metrics, **logprob_gap(batch, scores)}
    if weights is not None and importance_cap is not None:
        metrics["importance_capped"] = mean_metric(weights >= importance_cap)
    return replace(term, metrics=metrics)


def logprob_gap(batch: Batch, scores: Scores) -> dict[str, Metric]:
    """How far the trainer's log-probabilities are from those that the engine sampled with, in nats: mean and largest.

    Of a generation's first update; in later ones (documents with the field `stale`) the policy has moved, and there is
    no figure. With `sampled_logprobs` the `old_logprobs` are the trainer's own, of the weights that sampled.
    """
    columns = {name: column.flatten()[scores.places] for name, column in batch.per_token.items()}
    ours = columns["old_logprobs"] if "sampled_logprobs" in columns else scores.logprobs.detach()
    theirs = columns.get("sampled_logprobs", columns["old_logprobs"])
    if STALE in batch.per_document and "sampled_logprobs" not in columns:
        return {}
    apart = (ours - theirs).abs()
    one = apart.new_tensor(1.0)
    return {"logprob_gap": mean_metric(apart), "logprob_gap_max": (apart.amax() if apart.numel() else 0 * one, one)}


def required(columns: Any, *names: str) -> dict[str, Tensor]:
    """The named columns of a batch; TrainingError naming what is missing."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise TrainingError(f"the batch lacks {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    return {name: columns[name] for name in names}
