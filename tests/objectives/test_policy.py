"""GRPO: worked by hand, and against TRL's own loss method and its advantages' formula on the same tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from luopan.errors import RecipeError
from luopan.objectives.config import PolicyLossType
from luopan.objectives.policy import group_advantages, grpo

LOSS_TYPES = get_args(PolicyLossType)


def by_hand(loss_type: PolicyLossType) -> tuple[float, float]:
    """Three tokens: sequence 0 has two (advantage 1), sequence 1 has one (advantage -2); ratios 1, 1.5, 0.5."""
    ratios = torch.tensor([1.0, 1.5, 0.5])
    term = grpo(
        ratios.log(),
        torch.zeros(3),
        torch.tensor([1.0, 1.0, -2.0]),
        torch.tensor([0, 0, 1]),
        2,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type=loss_type,
        max_completion_length=10,
    )
    return term.total.item(), term.weight.item()


def test_the_clipped_objective_by_hand() -> None:
    # -min(1, 1) = -1; -min(1.5, 1.28) = -1.28; -min(-2 * 0.5, -2 * 0.8) = 1.6
    assert by_hand("dapo") == pytest.approx((-1 - 1.28 + 1.6, 3))
    assert by_hand("bnpo") == pytest.approx((-1 - 1.28 + 1.6, 3))
    assert by_hand("grpo") == pytest.approx(((-1 - 1.28) / 2 + 1.6, 2))
    assert by_hand("dr_grpo") == pytest.approx((-1 - 1.28 + 1.6, 20))


def test_metrics_by_hand() -> None:
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.5])
    term = grpo(
        ratios.log(),
        torch.zeros(4),
        torch.tensor([1.0, 1.0, -2.0, 1.0]),
        torch.tensor([0, 0, 1, 1]),
        2,
        entropies=torch.tensor([1.0, 2.0, 3.0, 4.0]),
    )
    got = {name: (total / count).item() for name, (total, count) in term.metrics.items()}
    assert got["clip_ratio/high"] == 0.25
    assert got["clip_ratio/low"] == 0.25  # the last token is below the clip too, but its advantage pulls it back
    assert got["clip_ratio"] == 0.5
    assert got["ratio"] == pytest.approx(3.5 / 4)
    assert got["ratio_max"] == pytest.approx(1.5)
    assert got["entropy"] == 2.5


def test_the_clip_cuts_the_gradient() -> None:
    logprobs = torch.tensor([1.0, 1.5, 0.5, 0.5]).log().requires_grad_()
    grpo(logprobs, torch.zeros(4), torch.tensor([1.0, 1.0, -2.0, 1.0]), torch.tensor([0, 0, 1, 1]), 2).total.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.0, 0.0, 0.0, -0.5])  # -ratio * advantage where not cut


def test_kl_term_by_hand() -> None:
    # d = log pi_ref - log pi = ln 2: e^d - d - 1 = 1 - ln 2
    common = (torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long), 1)
    term = grpo(*common, beta=0.5, reference_logprobs=torch.tensor([math.log(2)]))
    assert term.total.item() == pytest.approx(0.5 * (1 - math.log(2)))
    assert term.metrics["kl"][0].item() == pytest.approx(1 - math.log(2))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_equals_trl(loss_type: PolicyLossType, beta: float) -> None:
    """Our loss and its gradient equal those of `GRPOTrainer._compute_loss` on the same log-probabilities."""
    torch.manual_seed(1)
    rows, length = 8, 12
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))  # [B, T]
    policy = (-2 * torch.rand(rows, length)).requires_grad_()
    old = policy.detach() + 0.4 * torch.randn(rows, length)
    reference = policy.detach() + 0.4 * torch.randn(rows, length)
    advantages = torch.randn(rows)

    theirs = trl_grpo(policy, old, reference, advantages, mask, beta, loss_type)
    (gradient,) = torch.autograd.grad(theirs, policy)

    sequence = mask.nonzero()[:, 0]
    term = grpo(
        policy[mask],
        old[mask],
        advantages[sequence],
        sequence,
        rows,
        epsilon=0.2,
        epsilon_high=0.28,
        beta=beta,
        reference_logprobs=reference[mask] if beta else None,
        loss_type=loss_type,
        max_completion_length=length,
    )
    ours = term.total / term.weight
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, policy)[0], gradient)


def trl_grpo(
    policy: torch.Tensor,
    old: torch.Tensor,
    reference: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    loss_type: str,
) -> torch.Tensor:
    """TRL's own `_compute_loss` with its model call answered by the log-probabilities `policy`."""
    from trl import GRPOTrainer

    rows, length = mask.shape
    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, torch.zeros_like(policy), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.28,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=length,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.zeros(rows, length, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_does_not_change_with_accumulation(loss_type: PolicyLossType) -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 5, 2]
    sequence = torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
    new, old, advantages = -torch.rand(11), -torch.rand(11), torch.randn(4)[sequence]

    def term(rows: torch.Tensor, first: int, count: int) -> tuple[float, float]:
        part = grpo(
            new[rows],
            old[rows],
            advantages[rows],
            sequence[rows] - first,
            count,
            loss_type=loss_type,
            max_completion_length=5,
        )
        return part.total.item(), part.weight.item()

    whole = term(sequence >= 0, 0, 4)
    halves = [term(sequence < 2, 0, 2), term(sequence >= 2, 2, 2)]
    assert sum(x for x, _ in halves) / sum(w for _, w in halves) == pytest.approx(whole[0] / whole[1], rel=1e-5)


def test_group_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    # mean 0.5, deviations 0.5 each: variance 4 * 0.25 / 3
    std = math.sqrt(1 / 3)
    got = group_advantages(rewards)
    expected = 0.5 / (std + 1e-4)
    assert got[0].tolist() == pytest.approx([expected, -expected, -expected, expected])
    assert got[1].tolist() == [0.0] * 4
    assert group_advantages(rewards, "none")[0].tolist() == [0.5, -0.5, -0.5, 0.5]
    # All eight: mean 0.5, variance 4 * 0.25 / 7
    assert group_advantages(rewards, "batch")[0, 0].item() == pytest.approx(0.5 / (math.sqrt(1 / 7) + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_equal_trls(scale: str) -> None:
    """TRL's `nanstd` and `sum_then_normalize` branch, rewards that could not be scored as NaN."""
    from trl.trainer.utils import nanstd

    torch.manual_seed(0)
    rewards = torch.rand(5, 4)
    rewards[1, 2] = rewards[3, 0] = rewards[3, 1] = math.nan
    centred = rewards - rewards.nanmean(1, keepdim=True)
    std = nanstd(rewards, dim=1)[:, None] if scale == "group" else nanstd(rewards)
    expected = centred if scale == "none" else centred / (std + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, scale), expected.nan_to_num(0.0))  # type: ignore[arg-type]
    by_mask = group_advantages(rewards.nan_to_num(7.0), scale, valid=~rewards.isnan())  # type: ignore[arg-type]
    torch.testing.assert_close(by_mask, expected.nan_to_num(0.0))


def test_a_group_with_one_scored_answer_teaches_nothing() -> None:
    rewards = torch.tensor([[1.0, math.nan], [math.nan, math.nan]])
    for scale in ("group", "batch", "none"):
        assert group_advantages(rewards, scale).tolist() == [[0.0, 0.0], [0.0, 0.0]]  # type: ignore[arg-type]


def test_a_valid_reward_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        group_advantages(torch.tensor([[1.0, math.nan]]), valid=torch.tensor([[True, True]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon_high": -0.1}, "epsilon_high"),
        ({"beta": -1.0}, "beta"),
        ({"beta": 0.1}, "reference model"),
        ({"reference_logprobs": torch.zeros(1)}, "no effect"),
        ({"loss_type": "dr_grpo"}, "max_completion_length"),
        ({"loss_type": "ppo"}, "unknown"),
    ],
)
def test_knobs_that_cannot_work_are_refused(arguments: dict, message: str) -> None:
    common = (torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long), 1)
    with pytest.raises(RecipeError, match=message):
        grpo(*common, **arguments)
    with pytest.raises(RecipeError, match="unknown"):
        group_advantages(torch.zeros(1, 2), "std")  # type: ignore[arg-type]
