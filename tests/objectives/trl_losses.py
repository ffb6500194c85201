"""Each preference loss beside TRL's own, on the same log-probabilities: the losses and their gradients.

TRL computes its losses in the trainers' methods, which are called here with stand-ins for everything but the figures.
`benchmarks/parity.py` makes the published table of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from luopan.objectives.kto import kto
from luopan.objectives.preference import dpo

# Losses of TRL's DPOTrainer, with their label smoothing.
PAIRED: list[tuple[Any, float]] = [
    ("sigmoid", 0.0), ("sigmoid", 0.1), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.2),
    ("apo_zero", 0.0), ("apo_down", 0.0), ("exo_pair", 1e-3), ("nca_pair", 0.0), ("sppo_hard", 0.0),
]  # fmt: skip
BETA = 0.3


@dataclass(frozen=True)
class Both:
    """A loss by us and by TRL, and its gradient to the log-probabilities."""

    ours: Tensor
    theirs: Tensor
    our_gradient: Tensor
    their_gradient: Tensor

    @property
    def apart(self) -> tuple[float, float]:
        """The largest difference of the losses and of the gradients."""
        return float((self.ours - self.theirs).abs()), float((self.our_gradient - self.their_gradient).abs().max())


def both(ours: Tensor, theirs: Tensor, policy: Tensor) -> Both:
    gradients = (torch.autograd.grad(loss, policy, retain_graph=True)[0] for loss in (ours, theirs))
    return Both(ours.detach(), theirs.detach(), *gradients)


def paired(loss_type: Any, smoothing: float, seed: int = 0) -> Both:
    """A loss of `DPOTrainer._compute_loss`."""
    torch.manual_seed(seed)
    pairs, length = 6, 9
    mask = torch.arange(length) < torch.randint(2, length + 1, (2 * pairs, 1))  # completion: chosen, then rejected
    mask[:, 0] = False  # the first token is the prompt
    policy = (-3 * torch.rand(2 * pairs, length - 1) * mask[:, 1:]).requires_grad_()
    reference = -3 * torch.rand(2 * pairs, length - 1) * mask[:, 1:]
    theirs = _dpo_trainer(policy, reference, mask, loss_type, smoothing)
    chosen, rejected = policy.sum(1).chunk(2)
    reference_chosen, reference_rejected = reference.sum(1).chunk(2)
    chosen_lengths, rejected_lengths = mask.sum(1).chunk(2)
    knobs: dict[str, Any] = {"label_smoothing": smoothing, "loss_type": loss_type}
    knobs |= {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    term = dpo(chosen, rejected, reference_chosen, reference_rejected, beta=BETA, **knobs)
    return both(term.total / term.weight, theirs, policy)


def _dpo_trainer(policy: Tensor, reference: Tensor, mask: Tensor, loss_type: str, smoothing: float) -> Tensor:
    """TRL's loss, given a model that answers with the log-probabilities `policy`.

    TRL's "sigmoid" knows no label smoothing; its "aot" has the smoothed form, which for a single pair is cDPO.
    """
    from trl import DPOTrainer

    def run(rows: Tensor, kind: str) -> Tensor:
        reference_chosen, reference_rejected = reference[rows].sum(1).chunk(2)
        trainer = SimpleNamespace(
            **_STAND_IN,
            ld_alpha=None,
            f_divergence_type="reverse_kl",
            use_weighting=False,
            loss_types=[kind],
            loss_weights=[1.0],
            beta=BETA,
            label_smoothing=smoothing,
            _metrics={"train": defaultdict(list)},
        )
        inputs = {
            "input_ids": torch.zeros(mask[rows].shape, dtype=torch.long),
            "attention_mask": torch.ones(mask[rows].shape, dtype=torch.long),
            "completion_mask": mask[rows].long(),
            "ref_chosen_logps": reference_chosen,
            "ref_rejected_logps": reference_rejected,
        }
        return DPOTrainer._compute_loss(trainer, _answers(policy[rows]), inputs, return_outputs=False)

    pairs = len(policy) // 2
    if loss_type == "sigmoid" and smoothing:
        return torch.stack([run(torch.tensor([i, pairs + i]), "aot") for i in range(pairs)]).mean()
    return run(torch.arange(2 * pairs), loss_type)


_STAND_IN: dict[str, Any] = {
    "model": SimpleNamespace(training=True), "aux_loss_enabled": False, "precompute_ref_logps": True, "_tp_size": 1,
    "_total_train_tokens": 0,
    "accelerator": SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x),
}  # fmt: skip


def _answers(log_probs: Tensor) -> Callable[..., Any]:
    """A model whose output these log-probabilities are."""
    zeros = torch.zeros_like(log_probs)
    outputs = SimpleNamespace(
        log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
    )
    return lambda **_: outputs


def orpo(seed: int = 0) -> Both:
    """The likelihood of the chosen answer and `ORPOTrainer.odds_ratio_loss`."""
    from trl.experimental.orpo import ORPOTrainer

    sums, means, knobs = _without_reference(seed)
    stand_in = SimpleNamespace(beta=BETA, accelerator=SimpleNamespace(device="cpu"), is_peft_model=False)
    ratio = ORPOTrainer.odds_ratio_loss(stand_in, means[0], means[1])[0]
    return both(dpo(sums[0], sums[1], beta=BETA, loss_type="orpo", **knobs).total, (-means[0] - ratio).sum(), sums)


def simpo(seed: int = 0) -> Both:
    """`CPOTrainer.cpo_loss` as it is set for SimPO."""
    from trl.experimental.cpo import CPOTrainer

    sums, means, knobs = _without_reference(seed)
    trainer = SimpleNamespace(
        beta=BETA, loss_type="simpo", simpo_gamma=0.7, label_smoothing=0.0, alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    theirs = CPOTrainer.cpo_loss(trainer, means[0], means[1])[0].sum()
    ours = dpo(sums[0], sums[1], beta=BETA, loss_type="simpo", simpo_gamma=0.7, **knobs).total
    return both(ours, theirs, sums)


def _without_reference(seed: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Sums and means of log-probabilities [2, 7], chosen and rejected, and the knobs with the lengths."""
    torch.manual_seed(seed)
    lengths = torch.randint(2, 9, (2, 7))
    sums = ((-2 * torch.rand(2, 7) - 0.05) * lengths).requires_grad_()
    return sums, sums / lengths, {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}


def unpaired(seed: int = 0) -> Both:
    """`KTOTrainer._compute_loss` on a batch that is one group."""
    from trl import KTOTrainer

    torch.manual_seed(seed)
    labels = torch.tensor([True, False, True, True, False, True, False])
    policy = (-3 * torch.rand(7, 5)).requires_grad_()
    reference, mixed = -3 * torch.rand(7, 5), torch.randn(7)
    trainer = SimpleNamespace(
        **_STAND_IN, calculate_KL=True, beta=BETA, desirable_weight=1.0, undesirable_weight=1.5, loss_type="kto",
        _metrics={"train": defaultdict(list)}, _compute_kl_logps=lambda model, batch: mixed,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(7, 6, dtype=torch.long), "attention_mask": torch.ones(7, 6, dtype=torch.long),
        "completion_mask": torch.ones(7, 6, dtype=torch.long), "label": labels, "ref_logps": reference.sum(1),
        "ref_KL_logps": torch.zeros(7),
    }  # fmt: skip
    theirs = KTOTrainer._compute_loss(trainer, _answers(policy), inputs, return_outputs=False)
    group = torch.zeros(7, dtype=torch.int64)
    term = kto(
        policy.sum(1) - reference.sum(1), labels, group, mixed, group, num_groups=1, beta=BETA, undesirable_weight=1.5
    )
    return both(term.total / term.weight, theirs, policy)
