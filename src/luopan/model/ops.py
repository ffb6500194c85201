"""What a block spends its time in besides attention (linear, RMS norm, rotation, SwiGLU), and the head's log-softmax.

On the CPU, in eager mode, each is an autograd function of its own: at a few million parameters a step is bound by
passes over memory and by the matrix library, and the stock compositions make more passes than needed. Everywhere
else (CUDA, torch.compile, autocast) they are the stock operations, which fuse well there. Both forms are tested
against each other. Limit: the CPU forms cannot be differentiated twice.

Measured with torch 2.13, 2 cores of an AVX-512 EPYC, [16, 256, 128] fp32, forward + backward, best of 40:
RMS norm 1.04 ms stock, 0.47 here; rotation of 8 heads of 32 4.2 and 2.6. Input gradient of a linear layer in GFLOP/s,
MKL and oneDNN: 128->384 151 and 208, 128->2048 160 and 203, 2048->2048 176 and 204.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _eager_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


# ---------------------------------------------------------------------------------------------------------- linear


def choose_library() -> None:
    """Find out once what there is. Not in the middle of a forward pass: selective recompute counts operations."""
    _has_onednn()


@functools.cache
def _has_onednn() -> bool:
    """Whether oneDNN's fp32 linear can be called directly (stock torch sends fp32 to MKL, slower on AMD)."""
    try:
        _onednn_product(torch.ones(1, 1), torch.ones(1, 1))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return platform.machine().lower() in ("x86_64", "amd64")


def _onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I], weight [O, I] -> [..., O] without a gradient of its own, by the faster library."""
    if x.dtype == torch.float32 == weight.dtype and _eager_cpu(x) and _has_onednn() and x.numel() > 0:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """grad [..., O], weight [O, I] -> [..., I]."""
    if grad.dtype == torch.float32 == weight.dtype and _eager_cpu(grad) and _has_onednn() and grad.numel() > 0:
        return _onednn_product(grad, weight.t())
    return grad @ weight


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = _onednn_product(grad, weight.t()) if needs_x else None
        # The weight's gradient is a product over all tokens, where MKL is the faster of the two.
        grad_weight = flat.t() @ x.reshape(-1, x.shape[-1]) if needs_weight else None
        return grad_x, grad_weight, flat.sum(0) if needs_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I], weight [O, I], bias [O] -> [..., O]: `torch.nn.functional.linear`, faster where it is trained.

    Without gradients it is the stock operation: oneDNN, though a third faster, puts the logits of SmolLM2-135M 1.6e-4
    from the float64 ones and MKL 0.6e-4, and logits are promised to be within 1e-4 of transformers'.
    """
    fits = x.dtype == torch.float32 == weight.dtype and x.numel() > 0
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if fits and trained and _eager_cpu(x) and _has_onednn():
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


# -------------------------------------------------------------------------------------------------------- RMS norm


def _rms_scale(x: Tensor, eps: float) -> Tensor:
    # A mean of squares, not the square of a norm, which is a little faster and shows in the fifth digit of logits.
    return x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # [..., 1]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _rms_scale(x, eps)
        normed = x * scale
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        # y = w n with n = x s(x): dx = s (w g - n mean(w g n)), dw = sum(g n).
        normed, weight, scale = ctx.saved_tensors
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0)
        mean = (product @ weight).div_(-product.shape[-1]).unsqueeze(-1)
        grad_x = torch.mul(grad, weight, out=product).addcmul_(normed, mean).mul_(scale)
        return grad_x, grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., C] divided by the root of its mean square (plus eps), times weight [C] (arXiv:1910.07467)."""
    if x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64) and _eager_cpu(x):
        if not torch.is_grad_enabled():  # the same bits, without what a function for autograd costs when decoding
            return (x * _rms_scale(x, eps)).mul_(weight)
        return _RMSNorm.apply(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


# -------------------------------------------------------------------------------------------------------- rotation


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.empty_like(x)
    (first, second), (one, two) = x.chunk(2, -1), turned.chunk(2, -1)
    torch.mul(first, cos, out=one).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=two).addcmul_(first, sin)
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None  # the transpose of a rotation turns back


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, H, D] turned by angles given as cos, sin [B, T, 1, D/2]: component i together with i + D/2.

    Computed in the precision of cos and sin (fp32) and returned in that of x: positions of 10^5 and more do not
    survive bf16.
    """
    if x.dtype == cos.dtype and _eager_cpu(x):
        return _Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _turn(x, cos, sin)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


# -------------------------------------------------------------------------------------------------------- SwiGLU


class _SwiGLU(torch.autograd.Function):
    """Keeps gate and up alone, where the stock composition keeps silu(gate) as well; that is computed again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_silu = grad * up
        return torch.ops.aten.silu_backward.grad_input(grad_silu, gate, grad_input=grad_silu), F.silu(gate).mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise (arXiv:2002.05202); on the CPU with a third less kept for the backward pass."""
    if gate.dtype == up.dtype and torch.is_grad_enabled() and gate.requires_grad and _eager_cpu(gate):
        return _SwiGLU.apply(gate, up)
    return F.silu(gate) * up


# -------------------------------------------------------------------------------------------------- log softmax


def log_softmax_(logits: Tensor) -> Tensor:
    """log softmax over the last dimension, in the memory of `logits` [N, V] fp32 where that is possible (CPU).

    The CPU kernel reads a row's maximum and sum before it writes it, so it may write over what it read (tested): 4.8
    instead of 7.0 ms for [341, 49152], and one copy of the logits less.
    """
    if _eager_cpu(logits) and logits.is_contiguous():
        return torch.ops.aten._log_softmax.out(logits, -1, False, out=logits)
    return torch.log_softmax(logits, -1)
