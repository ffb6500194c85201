"""The CPU forms of the operations against the stock ones, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.model import ops


def _same(one: Callable[..., Tensor], other: Callable[..., Tensor], inputs: list[Tensor], grad_shape: tuple) -> None:
    grad = torch.randn(grad_shape, generator=torch.Generator().manual_seed(9))
    results = []
    for function in (one, other):
        fresh = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        out = function(*fresh)
        out.backward(grad)
        results.append([out, *(x.grad for x in fresh if x.requires_grad)])
    for ours, stock in zip(*results, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


def _random(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1, 1), (3, 50)])
def test_linear(bias: bool, rows: tuple[int, int]) -> None:
    inputs = [_random(*rows, 24), _random(40, 24, seed=1)] + ([_random(40, seed=2)] if bias else [])
    _same(ops.linear, F.linear, inputs, (*rows, 40))


def test_linear_leaves_out_gradients_nobody_needs() -> None:
    x, weight = _random(5, 8), _random(4, 8, seed=1, grad=False)
    ops.linear(x, weight).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, 8))


def test_rms_norm() -> None:
    def stock(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)

    _same(lambda x, w: ops.rms_norm(x, w, 1e-3), stock, [_random(3, 7, 16), _random(16, seed=1)], (3, 7, 16))


def test_rotate() -> None:
    angle = torch.linspace(0, 3, 28).view(1, 7, 1, 4)

    def stock(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    _same(lambda x: ops.rotate(x, angle.cos(), angle.sin()), stock, [_random(3, 7, 2, 8)], (3, 7, 2, 8))


def test_half_precision_takes_the_stock_way() -> None:
    x, weight = _random(2, 3, 2, 8).bfloat16(), _random(8, seed=1).bfloat16()
    assert ops.linear(x, torch.ones(4, 8).bfloat16()).dtype == torch.bfloat16
    assert ops.rms_norm(x, weight, 1e-6).dtype == torch.bfloat16
    cos = torch.ones(1, 3, 1, 4)
    torch.testing.assert_close(ops.rotate(x, cos, torch.zeros_like(cos)), x)


def test_swiglu() -> None:
    inputs = [_random(3, 7, 16), _random(3, 7, 16, seed=1)]
    _same(ops.swiglu, lambda gate, up: F.silu(gate) * up, inputs, (3, 7, 16))


def test_swiglu_keeps_its_two_inputs_alone() -> None:
    gate, up = _random(3, 16), _random(3, 16, seed=1)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):  # type: ignore[func-returns-value]
        ops.swiglu(gate, up)
    assert sorted(kept) == sorted([gate.data_ptr(), up.data_ptr()])


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (341, 5000), (2, 70_001)])
def test_log_softmax_in_place_gives_the_same_bits(shape: tuple[int, int]) -> None:
    """torch does not promise that its kernel may write over what it reads: a release that breaks it must be noticed."""
    logits = 20 * _random(*shape, grad=False)
    expected = torch.log_softmax(logits, -1)
    memory = logits.data_ptr()
    got = ops.log_softmax_(logits)
    assert torch.equal(got, expected) and got.data_ptr() == memory
    assert torch.equal(ops.log_softmax_(expected.t().contiguous().t()), torch.log_softmax(expected, -1))
