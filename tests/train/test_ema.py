"""The average of the weights against its formula, with bad updates in between and across a checkpoint."""

from __future__ import annotations

import pytest
import torch

from luopan.train.ema import Ema

GOOD, BAD = torch.zeros(()), torch.ones(())


def test_by_hand() -> None:
    weights = {"w": torch.nn.Parameter(torch.tensor([1.0, -2.0]))}
    ema = Ema(weights, decay=0.15)
    expected = weights["w"].detach().clone()
    for step, value in enumerate([3.0, 5.0, -7.0]):
        weights["w"].data.fill_(value)
        ema.update(GOOD)
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15
        expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(ema.shadow["w"], expected)
    assert ema.updates == 3


def test_a_short_run_forgets_its_start() -> None:
    weights = {"w": torch.nn.Parameter(torch.tensor([1000.0]))}
    ema = Ema(weights, decay=0.9999)
    weights["w"].data.fill_(1.0)
    for _ in range(50):
        ema.update(GOOD)
    assert float(ema.shadow["w"]) == pytest.approx(1.0, abs=0.1)


def test_a_bad_update_changes_nothing() -> None:
    weights = {"w": torch.nn.Parameter(torch.randn(5))}
    ema = Ema(weights, decay=0.9)
    ema.update(GOOD)
    before = {name: shadow.clone() for name, shadow in ema.shadow.items()}
    weights["w"].data.add_(1.0)
    ema.update(BAD)
    assert torch.equal(ema.shadow["w"], before["w"]) and ema.updates == 1


def test_a_restored_average_goes_on_bitwise() -> None:
    def run(ema: Ema, weights: dict, start: int, stop: int) -> None:
        for step in range(start, stop):
            weights["w"].data.copy_(torch.randn(7, generator=torch.Generator().manual_seed(step)))
            ema.update(GOOD)

    weights = {"w": torch.nn.Parameter(torch.zeros(7))}
    whole = Ema(weights, decay=0.99)
    run(whole, weights, 0, 3)
    saved = {"w": whole.tensors()["shadow"]["w"].clone()}, whole.tensors()["updates"].clone()
    run(whole, weights, 3, 6)
    again = Ema({"w": torch.nn.Parameter(torch.ones(7))}, decay=0.99)
    again.tensors()["shadow"]["w"].copy_(saved[0]["w"])
    again.tensors()["updates"].copy_(saved[1])
    run(again, again.parameters, 3, 6)
    assert torch.equal(whole.shadow["w"], again.shadow["w"])


def test_it_is_copied_out_and_does_not_follow() -> None:
    weights = {"w": torch.nn.Parameter(torch.ones(3))}
    ema = Ema(weights, decay=0.5)
    target = {"w": torch.nn.Parameter(torch.zeros(3))}
    ema.copy_to(target)
    target["w"].data.add_(1.0)
    weights["w"].data.add_(5.0)
    assert torch.equal(ema.shadow["w"], torch.ones(3)) and torch.equal(target["w"].detach(), torch.full((3,), 2.0))
