"""Our Muon against torch's, bit for bit where torch has one, and expert by expert where it has none."""

from __future__ import annotations

import pytest
import torch

from luopan.train.muon import Muon, orthogonal

SHAPES = [(16, 16), (40, 16), (16, 40), (64, 24)]


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(drawn(*shape, seed=number)) for number, shape in enumerate(shapes)]


def give_gradients(found: list[torch.nn.Parameter], step: int) -> None:
    for number, parameter in enumerate(found):
        parameter.grad = drawn(*parameter.shape, seed=100 * (step + 1) + number)


def test_it_is_torchs_bit_for_bit() -> None:
    ours, theirs = parameters(*SHAPES), parameters(*SHAPES)
    settings = {"momentum": 0.9, "ns_steps": 4}
    mine = Muon([{"params": ours, "weight_decay": 0.3}], lr=0.02, **settings)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(4):
        for optimizer, found in ((mine, ours), (reference, theirs)):
            give_gradients(found, step)
            optimizer.param_groups[0]["lr"] = 0.02 / (step + 1)
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(mine.state[one]["momentum_buffer"], reference.state[other]["momentum_buffer"])


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_experts_are_matrices_of_their_own(shape: tuple[int, int]) -> None:
    stack = torch.nn.Parameter(drawn(3, *shape, seed=1))
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    together = Muon([{"params": [stack], "weight_decay": 0.1}], lr=0.02)
    each = Muon([{"params": alone, "weight_decay": 0.1}], lr=0.02)
    for step in range(3):
        stack.grad = drawn(3, *shape, seed=10 + step) * torch.tensor([1.0, 50.0, 1e-3])[:, None, None]
        for parameter, gradient in zip(alone, stack.grad, strict=True):
            parameter.grad = gradient.clone()
        together.step()
        each.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in alone]), rtol=0, atol=2e-3)


def test_an_expert_without_tokens_stays() -> None:
    stack = torch.nn.Parameter(drawn(2, 8, 8, seed=1))
    before = stack.detach().clone()
    optimizer = Muon([{"params": [stack]}], lr=0.02)
    stack.grad = torch.stack([drawn(8, 8, seed=2), torch.zeros(8, 8)])
    optimizer.step()
    assert torch.equal(stack[1], before[1]) and not torch.equal(stack[0], before[0])


def test_singular_values_come_near_one() -> None:
    values = torch.linalg.svdvals(orthogonal(drawn(30, 20, seed=3), 5).float())
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_a_bad_update_changes_nothing_and_a_good_flag_nothing_either() -> None:
    (flagged,), (plain,) = parameters((8, 6)), parameters((8, 6))
    one, other = Muon([{"params": [flagged]}], lr=0.02), Muon([{"params": [plain]}], lr=0.02)
    for step in range(2):
        one.found_inf = torch.zeros(())
        for optimizer, parameter in ((one, flagged), (other, plain)):
            give_gradients([parameter], step)
            optimizer.step()
        assert torch.equal(flagged, plain)
        flagged.grad[0, 0] = float("nan")
        one.found_inf = torch.ones(())
        one.step()
        assert torch.equal(flagged, plain)
        assert torch.equal(one.state[flagged]["momentum_buffer"], other.state[plain]["momentum_buffer"])
