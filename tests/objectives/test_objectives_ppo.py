"""PPO's losses: worked by hand, and against a second computation from the papers' formulas, padded as others do it."""

from __future__ import annotations

import pytest
import torch

from luopan.errors import RecipeError
from luopan.objectives.ppo import clipped_policy, clipped_value, ppo


def means(term) -> dict[str, float]:
    return {name: (total / count).item() for name, (total, count) in term.metrics.items()}


def test_the_policys_loss_by_hand() -> None:
    # Ratios 1, 1.5, 0.5, 0.5 with advantages 1, 1, -2, 1.
    # -min(1, 1) = -1; -min(1.5, 1.2) = -1.2; -min(-1, -1.6) = 1.6; -min(0.5, 0.8) = -0.5
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.5])
    term = clipped_policy(ratios.log(), torch.zeros(4), torch.tensor([1.0, 1.0, -2.0, 1.0]), cliprange=0.2)
    assert (term.total.item(), term.weight.item()) == pytest.approx((-1 - 1.2 + 1.6 - 0.5, 4))
    got = means(term)
    assert got["policy_loss"] == pytest.approx(-1.1 / 4)
    assert got["clip_ratio"] == 0.5  # the second and the third; the last is pulled back
    assert got["ratio"] == pytest.approx(3.5 / 4) and got["ratio_max"] == pytest.approx(1.5)


def test_the_values_loss_by_hand() -> None:
    # Old values 0, returns 1. New 0.1: (0.9)^2. New 0.5: clipped to 0.2, (0.8)^2 counts. New -0.5: clipped to -0.2,
    # (1.2)^2 < (1.5)^2, which counts. Half of each.
    values = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    term = clipped_value(values, torch.zeros(3), torch.ones(3), cliprange_value=0.2)
    assert (term.total.item(), term.weight.item()) == pytest.approx((0.5 * (0.81 + 0.64 + 2.25), 3))
    assert means(term)["value_loss"] == pytest.approx(0.5 * (0.81 + 0.64 + 2.25) / 3)
    assert means(term)["value_clip_ratio"] == pytest.approx(1 / 3)
    term.total.backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-0.9, 0.0, -1.5])
    free = clipped_value(values, torch.zeros(3), torch.ones(3), cliprange_value=None)
    assert free.total.item() == pytest.approx(0.5 * (0.81 + 0.25 + 2.25))


def test_both_together_by_hand() -> None:
    one = torch.tensor([1.0])
    term = ppo(
        (2 * one).log(), 0 * one, one, 0.5 * one, 0 * one, one, cliprange=0.2, cliprange_value=0.2, vf_coef=0.1,
        entropies=torch.tensor([3.0]),
    )  # fmt: skip
    assert term.total.item() == pytest.approx(-1.2 + 0.1 * 0.5 * 0.64)
    assert means(term)["entropy"] == 3.0


def test_equals_a_second_computation_over_padded_rows() -> None:
    """From the formulas, in [B, T] with a mask and a masked mean, as trainers without packing compute it."""
    torch.manual_seed(3)
    rows, length = 6, 9
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    policy = (-2 * torch.rand(rows, length)).requires_grad_()
    value = torch.randn(rows, length, requires_grad=True)
    old, old_value = ((now + 0.4 * torch.randn(rows, length)).detach() for now in (policy, value))
    advantage, target = torch.randn(rows, length), torch.randn(rows, length)

    weight = mask.double() / mask.sum()
    ratio = (policy.double() - old.double()).exp()
    surrogate = torch.stack([-advantage * ratio, -advantage * ratio.clip(0.8, 1.2)]).amax(0)
    moved = old_value + (value - old_value).clip(-0.2, 0.2)
    squares = torch.stack([(value - target) ** 2, (moved - target) ** 2]).amax(0)
    theirs = (surrogate * weight).sum() + 0.1 * 0.5 * (squares * weight).sum()
    expected = torch.autograd.grad(theirs, (policy, value))

    term = ppo(policy[mask], old[mask], advantage[mask], value[mask], old_value[mask], target[mask])
    ours = term.total / term.weight
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    for got, wanted in zip(torch.autograd.grad(ours, (policy, value)), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"cliprange": 0.0}, "cliprange"), ({"cliprange_value": 0.0}, "cliprange_value"), ({"vf_coef": 0.0}, "vf_coef")],
)
def test_knobs_that_cannot_work_are_refused(knobs: dict, message: str) -> None:
    one = torch.ones(1)
    with pytest.raises(RecipeError, match=message):
        ppo(one, one, one, one, one, one, **knobs)
