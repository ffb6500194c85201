"""The two parts that dense and expert layers share: a linear layer and the SwiGLU feed-forward.

They stand apart from `decoder.py` because `moe.py` needs them below it. Both are left uninitialised: the decoder
fills every weight from one seed (`Decoder.reset_parameters`).
"""

from __future__ import annotations

from torch import Tensor, nn

from luopan.model.ops import linear, swiglu


class Linear(nn.Linear):
    """`nn.Linear` by way of `ops.linear`; left uninitialised, the decoder fills it."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class MLP(nn.Module):
    """SwiGLU (arXiv:2002.05202) of width `inner`: [..., hidden] -> [..., hidden]."""

    def __init__(self, hidden: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, inner, bias=bias)
        self.up_proj = Linear(hidden, inner, bias=bias)
        self.down_proj = Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
