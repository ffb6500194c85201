"""What is left out: NaN, Inf, empty steps, spikes; the window stays clean and survives a checkpoint bit for bit."""

from __future__ import annotations

import json
import math

import pytest
import torch

from luopan.errors import TrainingError
from luopan.train.config import TrainConfig
from luopan.train.spikes import SpikeGuard, diagnosis, warning


def config(**changes) -> TrainConfig:
    return TrainConfig(learning_rate=1e-2, max_steps=4, **changes)


ONE = torch.tensor(1.0)


def guard(**changes) -> SpikeGuard:
    window = {} if "spike_sigma" in changes and changes["spike_sigma"] is None else {"spike_window": 8}
    return SpikeGuard(config(**{**window, **changes}), "cpu")


def feed(one: SpikeGuard, losses, norms=None, weights=None) -> list[float]:
    """The verdicts of some steps."""
    norms = norms or [1.0] * len(losses)
    weights = weights or [1.0] * len(losses)
    rows = zip(losses, norms, weights, strict=True)
    return [float(one.judge(*(torch.tensor(float(value)) for value in row))) for row in rows]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_or_norm_that_is_not_finite_is_left_out_from_the_first_step_on(value: float) -> None:
    one = guard()
    assert feed(one, [value, 1.0, 1.0], [1.0, value, 1.0]) == [1, 1, 0]
    verdict = one.check(3)
    assert [skipped.step for skipped in verdict.new] == [0, 1]
    assert [skipped.reason for skipped in verdict.new] == ["loss not finite", "gradient norm not finite"]
    assert verdict.in_a_row == 0 and not verdict.empty and one.skipped == 2


def test_an_empty_step_is_told_from_a_broken_one() -> None:
    one = guard()
    assert feed(one, [math.nan], [math.nan], [0.0]) == [1]  # 0 / 0
    verdict = one.check(1)
    assert verdict.empty and verdict.new[0].reason == "no trained token"
    assert "nothing to learn in step 0" in str(diagnosis(verdict, 1, config(), 0))
    feed(one, [1.0])
    assert not one.check(2).empty


def test_the_limit_is_the_mean_plus_sigma_deviations_of_the_window() -> None:
    losses = [2.0, 2.2, 1.8, 2.1, 1.9, 2.3]
    one = guard(spike_sigma=3.0)
    feed(one, losses, [1.0, 1.1, 0.9, 1.0, 1.2, 0.8])
    deviation = math.sqrt(sum((x - 2.05) ** 2 for x in losses) / 6)
    limit = 2.05 + 3 * deviation
    assert float(one.limits()[0]) == pytest.approx(limit, rel=1e-6)
    assert feed(one, [limit * 1.0001]) == [1]
    assert feed(one, [limit * 0.9999]) == [0], "the spike before it must not have raised the bar"
    skipped = one.check(8).new
    assert [one.step for one in skipped] == [6] and skipped[0].reason == f"loss {limit * 1.0001:.4g} above {limit:.4g}"


def test_a_gradient_spike_is_seen_as_well_and_a_fall_is_no_spike() -> None:
    one = guard()
    feed(one, [2.0, 2.1, 1.9, 2.0], [1.0, 1.1, 0.9, 1.0])
    assert feed(one, [0.1, 2.0, 2.0], [0.01, 50.0, 1.0]) == [0, 1, 0]
    assert one.check(7).new[0].reason.startswith("gradient norm 50 above")


def test_nothing_is_a_spike_before_half_the_window_is_filled_or_with_null() -> None:
    assert feed(guard(), [1.0, 1.0, 1.0, 1e9]) == [0, 0, 0, 0]
    assert feed(guard(), [1.0, 1.0, 1.0, 1.0, 1e9]) == [0, 0, 0, 0, 1]
    assert feed(guard(spike_sigma=None), [1.0, 1.0, 1.0, 1.0, 1e9, math.nan]) == [0, 0, 0, 0, 0, 1]


def test_rounding_of_a_loss_that_stands_still_is_no_spike() -> None:
    one = guard()
    assert feed(one, [2.0] * 8 + [2.0000005, 2.01]) == [0] * 10
    assert feed(one, [2.2]) == [1]


def test_the_first_gradient_after_many_steps_without_one_is_no_spike() -> None:
    """On policy, steps whose answers are all worth the same have loss and gradient zero, by the hundred."""
    one = guard()
    assert feed(one, [0.0] * 30 + [0.1, 0.2], [0.0] * 30 + [1.0, 0.5]) == [0] * 32
    assert int(one.good) == 2
    feed(one, [0.1, 0.2], [1.0, 0.5])
    assert feed(one, [0.1], [9.0]) == [1]


def test_the_window_forgets_what_is_older() -> None:
    one = guard(spike_sigma=3.0)
    feed(one, [100.0, 1.0, 100.0, 1.0] * 2)  # a wild beginning: 50.5 + 3 * 49.5 is the limit
    assert feed(one, [190.0]) == [0]
    feed(one, [1.0, 1.1] * 4)  # eight good steps: the wild ones have left the window
    assert feed(one, [2.0]) == [1]


def test_spikes_and_nans_do_not_enter_the_window() -> None:
    clean, dirty = guard(), guard()
    losses = [2.0, 2.1, 1.9, 2.0, 2.05, 2.0]
    feed(clean, losses)
    for loss in losses:
        feed(dirty, [loss, math.nan, loss], [1.0, 1.0, math.inf])
    assert torch.equal(clean.rings, dirty.rings) and torch.equal(clean.limits(), dirty.limits())


def test_the_row_counts_on_over_checks_and_ends_with_a_good_step() -> None:
    one = guard()
    feed(one, [1.0, math.nan, math.nan])
    assert one.check(3).in_a_row == 2
    feed(one, [math.nan])
    verdict = one.check(4)
    assert verdict.in_a_row == 3 and [skipped.step for skipped in verdict.new] == [3]
    assert one.check(4).new == ()
    feed(one, [1.0])
    assert one.check(5).in_a_row == 0


@pytest.mark.parametrize("checked", [True, False])
def test_a_restored_guard_judges_bit_for_bit_like_one_that_was_not_stopped(checked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    losses = (torch.rand(40, generator=generator) + 2).tolist()
    losses[7], losses[11] = math.nan, 1e6
    alone, first = guard(spike_window=5), guard(spike_window=5)
    feed(alone, losses)
    feed(first, losses[:13])
    if checked:
        first.check(13)
    second = guard(spike_window=5)
    second.restore(json.loads(json.dumps(first.state())))
    feed(second, losses[13:])
    assert torch.equal(alone.rings, second.rings) and torch.equal(alone.limits(), second.limits())
    news = alone.check(40).new
    assert str(second.check(40).new) == str(news[2:] if checked else news)  # as text: NaN differs from itself
    assert alone.skipped == second.skipped and str(alone.state()) == str(second.state())


def test_another_window_length_starts_anew() -> None:
    one = guard(spike_window=8)
    feed(one, [1.0] * 8)
    other = guard(spike_window=4)
    other.restore(one.state())
    assert math.isinf(float(other.limits()[0])) and feed(other, [1e9]) == [0]


def test_after_going_back_the_row_is_over_and_the_count_stays() -> None:
    one = guard()
    feed(one, [math.nan] * 3)
    one.check(3)
    one.rewound(skipped=7)
    assert one.check(0).in_a_row == 0 and one.skipped == 7


def test_nothing_is_read_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(*arguments):
        raise AssertionError("judge waits for the device")

    one = guard()
    for name in ("item", "tolist", "new_tensor", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, sync)
    for _ in range(10):
        one.judge(ONE, ONE, ONE)


def test_words_for_people() -> None:
    one = guard()
    feed(one, [math.nan] * 5)
    verdict = one.check(5)
    assert warning(verdict.new, 5).count("\n") == 0 and "up to step 4" in warning(verdict.new, 5)
    error = diagnosis(verdict, 5, config(), 2)
    assert isinstance(error, TrainingError) and error.hint and "spike_sigma" not in error.hint
    assert "5 updates in a row" in str(error) and "2 times" in str(error)
