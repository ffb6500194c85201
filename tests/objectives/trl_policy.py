"""Policy losses beside TRL's own, on the same log-probabilities: values and gradients.

`GRPOTrainer._compute_loss` and `RLOOTrainer._compute_loss` are called with stand-ins for everything but the figures;
their model call is answered by the log-probabilities that ours get. `benchmarks/parity.py` makes the published table.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl_losses import Both, both

from luopan.objectives.importance import truncated_weights
from luopan.objectives.policy import grpo

ROWS, LENGTH, BETA, CAP = 8, 12, 0.04, 1.3


@dataclass(frozen=True)
class Case:
    """`knobs` are ours and by the same names TRL's; `ours` and `theirs` are what only one side knows."""

    name: str
    knobs: dict[str, Any] = field(default_factory=dict)
    beta: float = 0.0
    sampled: bool = False
    """Whether the answers come from another engine."""


CASES = [
    *(Case(name, {"loss_type": name}) for name in ("grpo", "dapo", "dr_grpo", "bnpo")),
    *(Case(f"{name} + KL", {"loss_type": name}, BETA) for name in ("grpo", "dapo", "dr_grpo", "bnpo")),
    Case("dapo, clip-higher", {"loss_type": "dapo", "epsilon_high": 0.28}),
    Case("dapo, delta", {"loss_type": "dapo", "delta": 1.5}),
    Case("dapo + KL, not weighted", {"loss_type": "dapo", "use_bias_correction_kl": False}, BETA),
    Case("GSPO", {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    Case("GSPO by tokens", {"loss_type": "dapo", "importance_sampling_level": "sequence", "delta": 1.5}),
    Case("cispo", {"loss_type": "cispo", "epsilon_high": 1.2}),
    Case("cispo of sequences + KL, not weighted",
         {"loss_type": "cispo", "epsilon_high": 1.2, "importance_sampling_level": "sequence",
          "use_bias_correction_kl": False}, BETA),
    Case("dapo, sampler corrected", {"loss_type": "dapo"}, sampled=True),
    Case("cispo + KL, sampler corrected", {"loss_type": "cispo", "epsilon_high": 1.2}, BETA, sampled=True),
]  # fmt: skip
RLOO = Case("rloo", {"loss_type": "rloo"})


@dataclass(frozen=True)
class Draw:
    """A batch of answers: log-probabilities [B, T] by four policies, which tokens are there, advantages [B]."""

    policy: Tensor
    old: Tensor
    reference: Tensor
    sampler: Tensor
    mask: Tensor
    advantages: Tensor


def draw(seed: int, rows: int = ROWS) -> Draw:
    torch.manual_seed(seed)
    mask = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (rows, 1))
    policy = -2 * torch.rand(rows, LENGTH)
    old, reference, sampler = (policy + 0.4 * torch.randn(rows, LENGTH) for _ in range(3))
    return Draw(policy.requires_grad_(), old, reference, sampler, mask, torch.randn(rows))


def compared(case: Case, seed: int = 0) -> Both:
    """The case by us and by TRL."""
    given = draw(seed)
    return both(ours(case, given), theirs(case, given), given.policy)


def ours(case: Case, given: Draw) -> Tensor:
    sequence = given.mask.nonzero()[:, 0]
    length = LENGTH if case.knobs["loss_type"] == "dr_grpo" else None
    old = given.old[given.mask]
    term = grpo(
        given.policy[given.mask],
        old,
        given.advantages[sequence],
        sequence,
        len(given.mask),
        beta=case.beta,
        reference_logprobs=given.reference[given.mask] if case.beta else None,
        importance_weights=truncated_weights(old, given.sampler[given.mask], CAP) if case.sampled else None,
        max_completion_length=length,
        **case.knobs,
    )
    return term.total / term.weight


def theirs(case: Case, given: Draw, **changes: Any) -> Tensor:
    """TRL's loss; `changes` to the attributes of its trainer."""
    from trl import GRPOTrainer, RLOOTrainer

    knobs = case.knobs
    low = knobs.get("epsilon", 0.2)
    args = SimpleNamespace(
        delta=knobs.get("delta"),
        use_bias_correction_kl=knobs.get("use_bias_correction_kl", True),
        steps_per_generation=1,
    )
    attributes: dict[str, Any] = {
        "model": SimpleNamespace(training=True),
        "accelerator": SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        "args": args,
        "_get_per_token_logps_and_entropies": lambda *_, **__: (given.policy, torch.zeros_like(given.policy), None),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": knobs.get("importance_sampling_level", "token"),
        "beta": case.beta,
        "loss_type": knobs["loss_type"],
        "epsilon_low": low,
        "epsilon_high": knobs.get("epsilon_high", low),
        "use_vllm": case.sampled,
        "vllm_importance_sampling_correction": case.sampled,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": LENGTH,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
    }
    method = RLOOTrainer._compute_loss if knobs["loss_type"] == "rloo" else GRPOTrainer._compute_loss
    return method(SimpleNamespace(**{**attributes, **changes}), None, _inputs(given))


def _inputs(given: Draw) -> dict[str, Tensor]:
    """A batch as TRL prepares it. Its weight for another sampler is made in the method that samples (mode
    token_truncate): exp of the difference over the mask, clamped from above."""
    rows, mask = len(given.mask), given.mask.long()
    return {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": given.advantages,
        "old_per_token_logps": given.old,
        "old_logps": (given.old * mask).sum(1),
        "ref_per_token_logps": given.reference,
        "importance_sampling_ratio": torch.exp((given.old - given.sampler) * mask).clamp(max=CAP),
        "num_items_in_batch": mask.sum(),
    }
