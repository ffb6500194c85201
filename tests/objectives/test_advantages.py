"""Advantages: worked by hand, and against TRL's formulas on the same rewards."""

from __future__ import annotations

import math

import pytest
import torch

from luopan.errors import RecipeError
from luopan.objectives.advantages import (
    baseline_whitened,
    group_advantages,
    leave_one_out,
    reinforce_pp,
    returns_to_go,
)


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


def test_leave_one_out_by_hand() -> None:
    # Of 1, 0, 0.5 the others' means are 0.25, 0.75, 0.5.
    rewards = torch.tensor([[1.0, 0.0, 0.5], [1.0, math.nan, 0.0], [1.0, math.nan, math.nan]])
    expected = [[0.75, -0.75, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
    for got in (leave_one_out(rewards), leave_one_out(rewards.nan_to_num(7.0), valid=~rewards.isnan())):
        torch.testing.assert_close(got, torch.tensor(expected))


def test_leave_one_out_equals_trls() -> None:
    """The lines of `RLOOTrainer._generate_and_score_completions`; it is the distance from the mean times K / (K-1)."""
    torch.manual_seed(0)
    rewards = torch.rand(5, 4)
    rewards[1, 2] = rewards[3, 0] = rewards[3, 1] = math.nan
    counts = (~rewards.isnan()).sum(1, keepdim=True)
    baselines = (rewards.nansum(1, keepdim=True) - rewards) / (counts - 1)
    torch.testing.assert_close(leave_one_out(rewards), (rewards - baselines).nan_to_num(0.0))
    whole = rewards[[0, 2, 4]]
    torch.testing.assert_close(leave_one_out(whole), group_advantages(whole, "none") * 4 / 3)


def test_reinforce_pp_by_hand() -> None:
    # Two answers of rewards 1 and 0 with two tokens and one; KL penalties 0.2, 0.1 and 0.3.
    first, second = returns_to_go(1.0, torch.tensor([0.2, 0.1])), returns_to_go(0.0, torch.tensor([0.3]))
    assert first.tolist() == pytest.approx([0.7, 0.9]) and second.tolist() == pytest.approx([-0.3])
    # Mean 1.3 / 3; squared distances by Bessel's correction.
    mean = 1.3 / 3
    std = math.sqrt(sum((value - mean) ** 2 for value in (0.7, 0.9, -0.3)) / 2)
    expected = [(value - mean) / (std + 1e-4) for value in (0.7, 0.9, -0.3)]
    assert reinforce_pp(torch.cat([first, second])).tolist() == pytest.approx(expected, rel=1e-5)


def test_reinforce_pp_with_a_baseline_by_hand() -> None:
    # Distances 0.5 and -0.5 of one token and three, 0 of two tokens: mean (0.5 - 1.5) / 6.
    rewards, tokens = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1, 3], [1, 1]])
    mean = -1 / 6
    squares = (0.5 - mean) ** 2 + 3 * (-0.5 - mean) ** 2 + 2 * mean**2
    std = math.sqrt(squares / 5)
    expected = [[(0.5 - mean) / (std + 1e-4), (-0.5 - mean) / (std + 1e-4)], [-mean / (std + 1e-4)] * 2]
    torch.testing.assert_close(baseline_whitened(rewards, tokens), torch.tensor(expected))


def test_whitening_is_over_tokens() -> None:
    """The same as written out token by token; what was not graded moves nothing and gets nothing."""
    torch.manual_seed(2)
    rewards, tokens = torch.rand(3, 4), torch.randint(1, 9, (3, 4))
    rewards[0, 1] = math.nan
    rewards[2, 1:] = math.nan  # the one that is left has nothing to be compared with
    got = baseline_whitened(rewards, tokens)
    graded = ~rewards.isnan()
    graded[2] = False
    centred = rewards - rewards.nanmean(1, keepdim=True)
    written_out = centred[graded].repeat_interleave(tokens[graded])
    expected = (centred - written_out.mean()) / (written_out.std() + 1e-4)
    torch.testing.assert_close(got, torch.where(graded, expected, 0.0))


def test_one_token_in_all_is_not_whitened_to_nan() -> None:
    assert reinforce_pp(torch.tensor([0.7])).tolist() == [0.0]
    assert baseline_whitened(torch.tensor([[math.nan, math.nan]]), torch.tensor([[3, 3]])).tolist() == [[0.0, 0.0]]


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown"):
        group_advantages(torch.zeros(1, 2), "std")  # type: ignore[arg-type]
