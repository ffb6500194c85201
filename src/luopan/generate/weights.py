"""A model's weights made ready for inference: another precision, or fewer bits.

int8: a scale for each row of a weight. What goes into a product is written in two digits of a byte for every token,
x = s (a + b / 254), so that the processor multiplies bytes and yet only the weight is rounded. One digit, as LLM.int8()
has it (Dettmers et al. 2022, arXiv:2208.07339) but for outliers in 16 bits, is faster and loses eight times as much.
Sums of bytes are exact, so what a token gives does not depend on what else is in the product. int4: 32 weights share a
scale and a zero, the best by squared error of a few narrowed ranges; what goes in is bf16. Both are kernels of torch's
own: torchao's (0.18) were tried, and are slower than fp32 on the CPU here (docs/log.md).

Norms, biases, routers and sinks stay as they are. Embedding and head are held in int8 in either case (once, where they
are tied). Experts are quantised one by one. Where the sizes of a weight do not fit its kernel, int4 holds it in int8.

Limits: for inference only, nothing can be trained or saved afterwards. It goes through torch's operations, not the
compiled pass, which in fp32 is faster: what is saved is memory. On a GPU (not tried) int8 makes the weight whole for
each product, and int4 is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luopan.errors import ModelError, RecipeError
from luopan.model.decoder import Decoder
from luopan.model.layers import Linear
from luopan.model.moe import Experts, MoE
from luopan.model.ops import swiglu

Precision = Literal["float32", "bfloat16"]
Quantise = Literal["int8", "int4"]

_GROUP = 32
# By how much the range of a group of int4 is narrowed: clipping its largest costs less than coarser steps for all.
_NARROWED = (1.0, 0.95, 0.9, 0.85, 0.8)


class Int8Linear(nn.Module):
    """codes [O, I] int8, scales [O] fp32: a weight's rows over their absolute maximum, in 127ths."""

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Int8Linear:
        """The layer that has about this weight [O, I]."""
        codes, scales = _in_bytes(weight.detach().float())
        return cls(codes, scales[:, 0], None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O], in the precision of x."""
        if x.device.type != "cpu":
            weight = (self.codes * self.scales[:, None]).to(x.dtype)
            return F.linear(x, weight, self.bias)
        flat = x.reshape(-1, x.shape[-1]).float()
        coarse, scales = _in_bytes(flat)  # a scale for each token
        fine = (flat - coarse * scales).mul_(254 / scales).round_().to(torch.int8)
        sums = torch._int_mm(torch.cat([coarse, fine]), self.codes.t()).float()  # [2 N, O]
        y = sums[: len(flat)].add_(sums[len(flat) :], alpha=1 / 254).mul_(scales).mul_(self.scales)
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], -1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.codes.shape[1]} -> {self.codes.shape[0]}, int8"


class Int4Linear(nn.Module):
    """packed [O, I/2] as torch's CPU kernel wants it; scales_and_zeros [I/32, O, 2] bf16; x goes in as bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        codes, scales_and_zeros = _in_nibbles(weight.detach().float())
        self.shape = tuple(weight.shape)
        self.register_buffer("packed", torch._convert_weight_to_int4pack_for_cpu(codes, 1))
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.register_buffer("bias", None if bias is None else bias.detach())

    packed: Tensor
    scales_and_zeros: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O], in the precision of x."""
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        y = torch._weight_int4pack_mm_for_cpu(flat, self.packed, _GROUP, self.scales_and_zeros).to(x.dtype)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return f"{self.shape[1]} -> {self.shape[0]}, int4"


class Int8Embedding(nn.Module):
    """The rows of an Int8Linear, looked up."""

    def __init__(self, rows: Int8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.dtype = rows, dtype

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., I]."""
        return (self.rows.codes[ids] * self.rows.scales[ids][..., None]).to(self.dtype)


class QuantisedExperts(nn.Module):
    """The experts of a layer, each three layers of fewer bits; those that no token chose are not touched."""

    def __init__(self, experts: Experts, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.ModuleList(make(weight, None) for weight in stack.detach().unbind(0))
            for stack in (experts.gate_proj, experts.up_proj, experts.down_proj)
        )

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
        """As `Experts.forward`: x [N, C], weights and chosen [N, k], counts [E] -> [N, C]."""
        out = torch.zeros_like(x)
        for expert in counts.nonzero()[:, 0].tolist():
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            part = x[rows]
            said = self.down[expert](swiglu(self.gate[expert](part), self.up[expert](part)))
            out.index_add_(0, rows, said * weights[rows, place, None].to(said.dtype))
        return out


@torch.no_grad()
def prepare(model: Decoder, dtype: Precision = "float32", quantize: Quantise | None = None) -> Decoder:
    """The model for inference, changed in place: `dtype` of what is not quantised and of keys and values, fewer bits.

    RecipeError for words that are not known; ModelError for a model that has adapters in it or has been prepared
    before, and for int4 on a GPU.
    """
    if dtype not in get_args(Precision):
        raise RecipeError(f"dtype is {dtype!r}, it must be one of {', '.join(get_args(Precision))}")
    if quantize is not None and quantize not in get_args(Quantise):
        raise RecipeError(f"quantize is {quantize!r}, it must be one of {', '.join(get_args(Quantise))}")
    chosen = torch.float32 if dtype == "float32" else torch.bfloat16
    if quantize is None:
        return model.to(chosen).eval()
    _check(model, quantize)
    make = _int8 if quantize == "int8" else _int4
    # Before anything is rounded to bf16: codes are of the weights as they are.
    rows = Int8Linear.of(model.embed_tokens.weight)
    head = rows if model.lm_head is None else Int8Linear.of(model.lm_head.weight)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if (
                type(child) is Linear
                and not (isinstance(parent, MoE) and name == "gate")
                and child is not model.lm_head
            ):
                setattr(parent, name, make(child.weight, child.bias))
            elif isinstance(child, Experts):
                setattr(parent, name, QuantisedExperts(child, make))
    model.lm_head = head  # type: ignore[assignment]
    model.embed_tokens = Int8Embedding(rows, chosen)  # type: ignore[assignment]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(chosen)
    return model.eval()


def held_bytes(model: nn.Module) -> int:
    """What parameters and buffers take, each counted once."""
    held = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()) if t.numel()}
    return sum(held.values())


def _check(model: Decoder, quantize: Quantise) -> None:
    if isinstance(model.embed_tokens, Int8Embedding):
        raise ModelError("the model's weights are quantised already", hint="load it again")
    others = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and type(part) is not Linear]
    adapted = [name for name, part in model.named_modules() if type(part).__name__ == "LoraLinear"]
    if others or adapted:
        hint = "merge its adapter first (luopan model merge)"
        raise ModelError(f"{(others or adapted)[0]} is no plain layer: it cannot be quantised", hint=hint)
    device = model.embed_tokens.weight.device.type
    if quantize == "int4" and device != "cpu":
        raise ModelError(f"int4 weights run on the CPU only, the model is on {device}", hint="use int8")


def _int8(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return Int8Linear.of(weight, bias)


def _int4(weight: Tensor, bias: Tensor | None) -> nn.Module:
    fits = weight.shape[1] % _GROUP == 0 and weight.shape[0] % 16 == 0  # the kernel's blocks
    return Int4Linear(weight, bias) if fits else Int8Linear.of(weight, bias)


def _in_bytes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows [N, I] fp32 -> codes [N, I] int8 and scales [N, 1], of which the products are about the rows."""
    scales = rows.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny).div_(127)
    return torch.div(rows, scales).round_().to(torch.int8), scales


def _in_nibbles(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [O, I] -> codes [O, I] int32 from 0 to 15; scales and zeros [I/G, O, 2]: (code - 8) * scale + zero."""
    groups = weight.view(weight.shape[0], -1, _GROUP)  # [O, I/G, G]
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best: tuple[Tensor, ...] | None = None
    for share in _NARROWED:
        scale = ((high - low) * share / 15).clamp_min(torch.finfo(torch.bfloat16).tiny).bfloat16().float()
        zero = (low * share + 8 * scale).bfloat16().float()
        codes = ((groups - zero) / scale).round().add_(8).clamp_(0, 15)
        error = ((codes - 8) * scale + zero - groups).square().sum(-1, keepdim=True)
        new = (error, codes, scale, zero)
        best = new if best is None else tuple(torch.where(error < best[0], a, b) for a, b in zip(new, best))
    assert best is not None
    _, codes, scale, zero = best
    together = torch.stack([scale[..., 0], zero[..., 0]], -1).transpose(0, 1)  # [I/G, O, 2]
    return codes.reshape(weight.shape).to(torch.int32), together.contiguous().bfloat16()
