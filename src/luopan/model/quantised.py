"""Frozen weights in fewer bits: held as codes and scales, made whole again for every product.

`int8` is one scale a row (absolute maximum), 1 byte a weight, error at most half a step of the row's maximum / 127. It
runs everywhere. `nf4` is QLoRA's four-bit type (Dettmers et al. 2023, arXiv:2305.14314) through bitsandbytes, about
half a byte a weight; it is meant for CUDA. Gradients go through the whole weight to the input; the codes never change.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import torch
from torch import Tensor

from luopan.errors import ModelError


class Held(Protocol):
    """A frozen weight in some form."""

    @property
    def nbytes(self) -> int:
        """What it takes."""
        ...

    def weight(self) -> Tensor:
        """[O, I] fp32."""
        ...


class Int8Weight:
    """codes [O, I] int8, scales [O, 1] fp32."""

    def __init__(self, weight: Tensor) -> None:
        whole = weight.detach().float()
        self.scales = whole.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.codes = torch.round(whole / self.scales).to(torch.int8)

    @property
    def nbytes(self) -> int:
        return self.codes.numel() + 4 * self.scales.numel()

    def weight(self) -> Tensor:
        return self.codes.float() * self.scales


class Nf4Weight:
    """bitsandbytes' four-bit codes, in blocks of 64 with scales that are quantised themselves."""

    def __init__(self, weight: Tensor) -> None:
        from bitsandbytes import functional

        self._functional: Any = functional
        self.codes, self.state = functional.quantize_4bit(
            weight.detach().float().contiguous(), quant_type="nf4", compress_statistics=True
        )

    @property
    def nbytes(self) -> int:
        scales = [self.state.absmax, getattr(self.state.state2, "absmax", None)]
        sizes = [t.numel() * t.element_size() for t in scales if isinstance(t, Tensor)]
        return self.codes.numel() * self.codes.element_size() + sum(sizes)

    def weight(self) -> Tensor:
        whole: Tensor = self._functional.dequantize_4bit(self.codes, self.state)
        return whole.float()


def quantise(weight: Tensor, base: str) -> Held:
    """`weight` [O, I] held as "int8" or "nf4". ModelError where that needs a package that is not installed."""
    if base == "int8":
        return Int8Weight(weight)
    assert base == "nf4", base
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "adapter.base: nf4 needs bitsandbytes",
            hint="pip install luopan[gpu], or use base: int8, which needs nothing.",
        )
    return Nf4Weight(weight)
