"""The gradient noise scale of gradients whose true one is known."""

from __future__ import annotations

import json
import math

import pytest
import torch

from luopan.train.noise_scale import NoiseScale, signal_and_noise

SMALL, BIG = torch.tensor(4.0), torch.tensor(32.0)


def test_the_two_unknowns_are_found() -> None:
    """|G|^2 = 3 and tr(S) = 20: the norms are 3 + 20/4 and 3 + 20/32."""
    signal, noise = signal_and_noise(torch.tensor(8.0), torch.tensor(3.625), SMALL, BIG)
    assert float(signal) == pytest.approx(3.0) and float(noise) == pytest.approx(20.0)


def squares(true: torch.Tensor, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norms of mean gradients over the first 4 of 32 examples, each drawn around `true`."""
    drawn = true + spread * torch.randn(32, len(true), generator=torch.Generator().manual_seed(seed))
    return drawn[:4].mean(0).square().sum(), drawn.mean(0).square().sum()


def filled(steps: int, spread: float = 2.0, decay: float = 0.99) -> NoiseScale:
    true = torch.linspace(-1, 1, 50)
    found = NoiseScale("cpu", decay)
    for step in range(steps):
        found.add(*squares(true, spread, step), SMALL, BIG)
    return found


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_known_gaussian_gradients(spread: float) -> None:
    true = torch.linspace(-1, 1, 50)
    expected = spread**2 * 50 / float(true.square().sum())
    assert filled(400, spread).value() == pytest.approx(expected, rel=0.1)


def test_one_step_is_not_drawn_to_zero() -> None:
    """The average starts at 0, which must not show in the ratio."""
    one = filled(1)
    signal, noise = signal_and_noise(*squares(torch.linspace(-1, 1, 50), 2.0, 0), SMALL, BIG)
    assert one.value() == pytest.approx(float(noise / signal), rel=1e-5)


def test_what_is_no_number_is_left_out() -> None:
    found = filled(3)
    before = found.sums.clone()
    nan = torch.tensor(math.nan)
    found.add(nan, nan, SMALL, BIG)
    found.add(torch.tensor(1.0), torch.tensor(math.inf), SMALL, BIG)
    found.add(torch.tensor(2.0), torch.tensor(1.0), BIG, BIG)  # one micro-batch: nothing to compare
    found.add(torch.tensor(2.0), torch.tensor(2.0), BIG, BIG)
    assert torch.equal(found.sums, before)


def test_no_value_is_nan() -> None:
    empty = NoiseScale("cpu")
    assert math.isnan(empty.value())
    empty.add(torch.tensor(9.0), torch.tensor(1.0), SMALL, BIG)  # noise alone: |G|^2 comes out below 0
    assert math.isnan(empty.value())


def test_restored_exactly() -> None:
    one = filled(5)
    other = NoiseScale("cpu")
    other.restore(json.loads(json.dumps(one.state())))
    for found in (one, other):
        found.add(*squares(torch.ones(50), 1.0, 77), SMALL, BIG)
    assert torch.equal(one.sums, other.sums) and one.value() == other.value()
