"""Frozen weights in fewer bits: held as codes and scales, made whole again for every product.

`int8` is one scale a row (absolute maximum), 1 byte a weight, error at most half a step of the row's maximum / 127. It
runs everywhere. `nf4` is QLoRA's four-bit type (Dettmers et al. 2023, arXiv:2305.14314) through bitsandbytes, about
half a byte a weight, error at most a sixth of the largest of 64 neighbours and that of the scale. Gradients go through
the whole weight to the input; the codes never change.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import torch
from torch import Tensor

from luopan.errors import ModelError

BLOCK = 64  # weights that share a scale, as in QLoRA
NF4_ERROR = 0.16  # of a block's largest: half the widest gap between two of the type's sixteen values is 0.152
NF4_SCALE_ERROR = 0.02  # of the largest around it: scales are held in eight bits themselves
SCALES = 256  # blocks whose scales are held together


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
    """bitsandbytes' four-bit codes, in blocks of 64 with scales that are quantised themselves.

    Blocks run through the weight as it lies in memory, whatever its rows are; given as rows of one block each, because
    bitsandbytes' CPU kernels (0.50.2) make something else of rows that are no multiple of it. What comes back is
    checked: ModelError where it is not the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        from bitsandbytes import functional

        self._functional: Any = functional
        self.shape = weight.shape
        flat = weight.detach().float().flatten()
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
        self.codes, self.state = functional.quantize_4bit(
            blocks, blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        error = (self._blocks() - blocks).abs().amax(1)
        largest = blocks.abs().amax(1)
        groups = torch.nn.functional.pad(largest, (0, -len(largest) % SCALES)).view(-1, SCALES)
        around = groups.amax(1).repeat_interleave(SCALES)[: len(largest)]
        if not bool((error <= NF4_ERROR * largest + NF4_SCALE_ERROR * around).all()):
            raise ModelError(
                "bitsandbytes does not give back what it was given: the four-bit weights are wrong",
                hint="Use base: int8, and please report this with the output of luopan doctor.",
            )

    @property
    def nbytes(self) -> int:
        scales = [self.state.absmax, getattr(self.state.state2, "absmax", None)]
        sizes = [t.numel() * t.element_size() for t in scales if isinstance(t, Tensor)]
        return self.codes.numel() * self.codes.element_size() + sum(sizes)

    def weight(self) -> Tensor:
        return self._blocks().flatten()[: self.shape.numel()].view(self.shape)

    def _blocks(self) -> Tensor:
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
            hint="pip install bitsandbytes, or use base: int8, which needs nothing.",
        )
    return Nf4Weight(weight)
