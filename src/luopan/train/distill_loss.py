"""Between a packed batch and distillation: what the teacher thinks of the trained positions, from where it is known.

A teacher in memory reads the same rows, and student and teacher are compared over the whole vocabulary, piece by piece:
neither's logits are ever all held (`luopan.model.head`). A teacher elsewhere is known by the k likeliest tokens of each
place, in the per-token values `teacher_id_0`, `teacher_logprob_0` and so on, which stand with the token that they are
about and which a rollout's buffer keeps.

Heads of one tokenizer may be padded to different widths (Qwen2.5's are); compared are the tokens that both have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from luopan.model.decoder import Decoder
from luopan.model.head import Score, linear_scores
from luopan.objectives.base import LossTerm
from luopan.objectives.distill import Rest, check_divergence, divergence, kl, sampled_reverse_kl, top_k_events
from luopan.tokens.batch import Batch
from luopan.train.losses import States, head_weight, required, token_scores, trained_states


def top_columns(ids: Tensor, logprobs: Tensor) -> dict[str, Any]:
    """[T, K] each, as the per-token values of a document of T tokens."""
    assert ids.shape == logprobs.shape, (ids.shape, logprobs.shape)
    columns: dict[str, Any] = {}
    for number in range(ids.shape[1]):
        columns[f"teacher_id_{number}"] = ids[:, number].float().numpy()
        columns[f"teacher_logprob_{number}"] = logprobs[:, number].float().numpy()
    return columns


def distill_loss(
    model: Decoder,
    batch: Batch,
    *,
    teacher: Decoder | None,
    beta: float,
    temperature: float = 1.0,
    rest: Rest = "bucket",
) -> LossTerm:
    """JSD(beta) between teacher and student, summed over the trained tokens; weight their number.

    `teacher` None: its likeliest tokens are in the batch. `rest` is read where not the whole vocabulary is known. The
    metric `reverse_kl` is KL(student || teacher) whatever beta is.
    """
    check_divergence(beta, temperature)
    states = trained_states(model, batch)
    if teacher is not None:
        score = whole_score(teacher, batch, beta, temperature)
    else:
        ids = _stack(batch.per_token, "teacher_id", states).long()
        logprobs = _stack(batch.per_token, "teacher_logprob", states)
        score = _top_score(ids, logprobs, beta, temperature, rest)
    total, figures = linear_scores(
        states.hidden, head_weight(model), score, softcap=model.config.final_logit_softcapping
    )
    weight = total.new_tensor(float(states.targets.numel()))
    metrics = {"divergence": (total.detach(), weight), "reverse_kl": (figures[:, 0].sum(), weight)}
    if states.routing is not None:
        total = total + states.routing.sum()
    return LossTerm(total, weight, metrics)


def sampled_distill_loss(model: Decoder, batch: Batch, *, temperature: float = 1.0) -> LossTerm:
    """`objectives.distill.sampled_reverse_kl` over the trained tokens.

    per_token: `old_logprobs` and `teacher_logprobs` of the tokens themselves, at `temperature`.
    """
    columns = required(batch.per_token, "old_logprobs", "teacher_logprobs")
    scores = token_scores(model, batch, temperature)
    old, theirs = (column.flatten()[scores.places] for column in columns.values())
    return sampled_reverse_kl(scores.logprobs, old, theirs)


def whole_score(teacher: Decoder, batch: Batch, beta: float, temperature: float) -> Score:
    """Compares with a teacher's distributions over the vocabulary, which are made as they are asked for."""
    with torch.no_grad():
        hidden = teacher.hidden(batch.input_ids, batch.position_ids, batch.layout)  # [B, T, C]
        hidden = hidden.flatten(0, 1)[batch.targets()[0]]  # [N, C]

    def score(logits: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theirs = teacher.logits(hidden[here]).float()
            width = min(theirs.shape[1], logits.shape[1])
            theirs = torch.log_softmax(theirs[:, :width] / temperature, -1)
        own = torch.log_softmax(logits[:, :width] / temperature, -1)
        return _scored(own, theirs, beta)

    return score


def _top_score(ids: Tensor, logprobs: Tensor, beta: float, temperature: float, rest: Rest) -> Score:
    def score(logits: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        own, theirs = top_k_events(logits, ids[here], logprobs[here], temperature=temperature, rest=rest)
        return _scored(own, theirs, beta)

    return score


def _scored(own: Tensor, theirs: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        reverse = kl(own, theirs)[:, None]
    return divergence(own, theirs, beta), reverse


def _stack(columns: Mapping[str, Tensor], name: str, states: States) -> Tensor:
    required(columns, f"{name}_0")
    found: list[Tensor] = []
    while (key := f"{name}_{len(found)}") in columns:
        found.append(columns[key].flatten()[states.places])
    return torch.stack(found, 1)
