"""Low-rank adapters: small trained changes beside frozen weights.

A linear layer W becomes W + s B A with A [r, I] and B [O, r] trained and W frozen (LoRA, Hu et al. 2021,
arXiv:2106.09685); s is lora_alpha / r, or lora_alpha / sqrt(r) (rsLoRA, arXiv:2312.03732). With DoRA (arXiv:2402.09353)
the rows of the sum are scaled to trained lengths m: m (W + s B A) / |W + s B A|, the norm taken as a constant in the
backward pass. B begins at zero, so a model with a fresh adapter is the model without it, to the bit.

Base weights keep their names; an adapter's parameters are called `lora_A`, `lora_B` and `lora_magnitude` beside them.
Limits: linear layers of attention and feed-forward only; experts, whose weights are stacked, are refused by name.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luopan.errors import ModelError
from luopan.model.adapter_config import AdapterConfig
from luopan.model.decoder import Decoder
from luopan.model.layers import Linear
from luopan.model.moe import MoE
from luopan.model.ops import linear
from luopan.model.quantised import Held, quantise

OPTIMIZER_BYTES = 8  # two fp32 moments a trained number


class LoraLinear(nn.Module):
    """A linear layer with a low-rank change beside its frozen weight: x [..., I] -> [..., O]."""

    lora_magnitude: nn.Parameter | None

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.bias = None if base.bias is None else nn.Parameter(base.bias.detach(), requires_grad=False)
        self.scaling = scaling(config)
        self.dropout = config.lora_dropout
        self.enabled = True
        self.before_merge: tuple[nn.Parameter, ...] | None = None  # in a tuple, which a module does not register
        self.held: Held | None = None
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(config.r, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, config.r, device=device))
        self.lora_magnitude = nn.Parameter(base.weight.detach().float().norm(dim=1)) if config.use_dora else None

    @property
    def merged(self) -> bool:
        """Whether the change is in the weight for now."""
        return self.before_merge is not None

    def base_weight(self) -> Tensor:
        """[O, I] what the change is added to."""
        return self.weight if self.merged or self.held is None else self.held.weight()

    def delta(self) -> Tensor:
        """[O, I] fp32: what is added to the weight (without DoRA's lengths)."""
        return self.scaling * (self.lora_B @ self.lora_A)

    def changed_weight(self) -> Tensor:
        """[O, I] fp32: the weight that this layer acts as."""
        whole = self.base_weight().float() + self.delta()
        if self.lora_magnitude is None:
            return whole
        return whole * (self.lora_magnitude / _lengths(whole)).unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        base = linear(x, self.base_weight(), self.bias)
        if not self.enabled or self.merged:
            return base
        dropped = F.dropout(x, self.dropout) if self.training and self.dropout else x
        change = linear(linear(dropped, self.lora_A), self.lora_B) * self.scaling
        if self.lora_magnitude is None:
            return base + change
        with torch.no_grad():  # a constant in the backward pass, as in the paper (section 4.3)
            norm = _lengths(self.base_weight().float() + self.delta())
        ratio = (self.lora_magnitude / norm).to(base.dtype)
        plain = base if dropped is x else linear(dropped, self.base_weight(), self.bias)
        bias = 0 if self.bias is None else self.bias
        return base + (ratio - 1) * (plain - bias) + ratio * change

    @torch.no_grad()
    def merge(self) -> None:
        """Put the change into the weight; the weight as it was is kept."""
        if not self.merged:
            changed = self.changed_weight().to(self.weight.dtype)
            self.before_merge = (self.weight,)
            self.weight = nn.Parameter(changed, requires_grad=False)

    def unmerge(self) -> None:
        """The weight as it was, to the bit."""
        if self.before_merge is not None:
            (self.weight,) = self.before_merge
            self.before_merge = None

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, rank {self.lora_A.shape[0]}"


def _lengths(weight: Tensor) -> Tensor:
    """[O]: the length of each row, never zero: a row of zeros stays one."""
    return weight.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class AdapterSummary:
    """What an adapter comes to. Bytes are those of the numbers held, gradients and optimizer state included."""

    modules: tuple[str, ...]
    trainable: int
    total: int
    base_bytes: int
    adapter_bytes: int
    training_bytes: int
    base: str

    @property
    def text(self) -> str:
        """A line for the person in front of the run."""
        share = self.trainable / self.total
        return (
            f"{self.trainable / 1e6:,.2f}M of {self.total / 1e6:,.1f}M parameters ({share:.1%}) are trained, in "
            f"{len(self.modules)} layers; base {self.base} {self.base_bytes / 1e6:,.0f} MB, adapter with gradients and "
            f"optimizer {(self.adapter_bytes + self.training_bytes) / 1e6:,.0f} MB"
        )


def scaling(config: AdapterConfig) -> float:
    """What B A is multiplied by."""
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def attach(model: Decoder, config: AdapterConfig, seed: int = 0) -> AdapterSummary:
    """Give `model` an adapter, in place, and freeze everything else; A is drawn from `seed`, B is zero.

    Raises ModelError for a model that has one, a pattern that matches nothing, or matches what cannot be adapted.
    """
    if adapted(model):
        raise ModelError("the model has an adapter already", hint="Merge or detach it first.")
    names = chosen_layers(model, config)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = LoraLinear(_linear_at(model, name), config)
        bound = 1 / math.sqrt(layer.in_features)  # kaiming_uniform_(a=sqrt(5)), which PEFT takes too
        drawn = torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            layer.lora_A.copy_(drawn)
        if config.base != "fp32":
            layer.held = quantise(layer.weight, config.base)
            layer.weight = nn.Parameter(torch.empty(0, device=layer.weight.device), requires_grad=False)
            if layer.lora_magnitude is not None:
                with torch.no_grad():
                    layer.lora_magnitude.copy_(layer.base_weight().float().norm(dim=1))
        _replace(model, name, layer)
    _train_in_full(model, config)
    return summary(model, config)


def chosen_layers(model: Decoder, config: AdapterConfig) -> list[str]:
    """Names of the layers that get an adapter, in the model's order."""
    linears = [name for name, module in model.named_modules() if isinstance(module, Linear) and name != "lm_head"]
    stacked = [name for name, module in model.named_modules() if isinstance(module, MoE)]
    in_experts = {name for name in linears if any(name.startswith(f"{one}.") for one in stacked)}
    if config.target_modules == "all-linear":
        found = [name for name in linears if name not in in_experts]
        if not found:
            raise ModelError("the model has no linear layer that can be adapted")
        return found
    found = []
    for pattern in config.target_modules:
        matched = [name for name in linears if _matches(name, pattern)]
        if not matched:
            every = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linears}))
            if pattern == "lm_head" or _matches_parameter(model, pattern):
                raise ModelError(
                    f"target_modules: {pattern!r} is no linear layer that can be adapted",
                    hint=f"Layers that can be: {every}. The head and embeddings go into modules_to_save.",
                )
            raise ModelError(f"target_modules: {pattern!r} matches no layer", hint=f"There are: {every}")
        found += matched
    if experts := [name for name in found if name in in_experts]:
        raise ModelError(f"{experts[0]} belongs to a mixture of experts, which adapters leave alone")
    order = {name: place for place, name in enumerate(linears)}
    return sorted(set(found), key=order.__getitem__)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.endswith(f".{pattern}") or fnmatch.fnmatchcase(name, pattern)


def _matches_parameter(model: Decoder, pattern: str) -> bool:
    names = [name for name, _ in model.named_parameters()]
    return any(_matches(name, pattern) or _matches(name.rpartition(".")[0], pattern) for name in names)


def _linear_at(model: Decoder, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear), name
    return module


def _replace(model: Decoder, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _train_in_full(model: Decoder, config: AdapterConfig) -> None:
    """Free the modules of `modules_to_save`, and keep what they were."""
    kept: dict[str, Tensor] = {}
    for wanted in config.modules_to_save:
        names = [name for name, _ in model.named_parameters() if _matches(name.rpartition(".")[0], wanted)]
        names = [name for name in names if ".lora_" not in name and not name.endswith(("lora_A", "lora_B"))]
        if wanted == "lm_head" and model.lm_head is None:
            hint = "Write embed_tokens: the head is the embedding in this model."
            raise ModelError("modules_to_save: lm_head is tied to the embedding", hint=hint)
        if not names:
            raise ModelError(
                f"modules_to_save: {wanted!r} matches no module", hint="Such as embed_tokens, lm_head, norm."
            )
        if inside := [name for name in names if isinstance(model.get_submodule(name.rpartition(".")[0]), LoraLinear)]:
            raise ModelError(f"modules_to_save: {inside[0]} has an adapter", hint="Take it out of target_modules.")
        for name in names:
            parameter = model.get_parameter(name)
            kept[name] = parameter.detach().clone()
            parameter.requires_grad_(True)
    if kept:
        model.base_of_saved = kept  # type: ignore[assignment]


def saved_modules(model: Decoder) -> dict[str, Tensor]:
    """Parameters that are trained in full beside the adapter, by name: what they were."""
    return dict(getattr(model, "base_of_saved", {}) or {})


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def adapted(model: nn.Module) -> bool:
    """Whether the model has an adapter."""
    return bool(lora_layers(model))


@contextmanager
def adapters_off(model: Decoder) -> Iterator[None]:
    """The base model alone: no change is added, and what is trained in full is as it was."""
    layers, saved = lora_layers(model), saved_modules(model)
    if any(layer.merged for layer in layers.values()):
        raise ModelError("the adapter is merged into the weights", hint="Call unmerge first.")
    trained = {name: model.get_parameter(name).detach().clone() for name in saved}
    try:
        for layer in layers.values():
            layer.enabled = False
        _copy(model, saved)
        yield
    finally:
        for layer in layers.values():
            layer.enabled = True
        _copy(model, trained)


@torch.no_grad()
def _copy(model: Decoder, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        model.get_parameter(name).copy_(value)


def merge(model: Decoder) -> None:
    """Put every change into its weight; `unmerge` takes it out again, to the bit."""
    for layer in lora_layers(model).values():
        layer.merge()


def unmerge(model: Decoder) -> None:
    """Undo `merge`."""
    for layer in lora_layers(model).values():
        layer.unmerge()


@contextmanager
def merged(model: Decoder) -> Iterator[None]:
    """The model with its changes in the weights and no adapter's parameters, for saving; afterwards as before."""
    layers = lora_layers(model)
    merge(model)
    hidden = {name: (layer.lora_A, layer.lora_B, layer.lora_magnitude) for name, layer in layers.items()}
    try:
        for layer in layers.values():
            del layer.lora_A, layer.lora_B
            layer.lora_magnitude = None
        yield
    finally:
        for name, layer in layers.items():
            layer.lora_A, layer.lora_B, layer.lora_magnitude = hidden[name]
        unmerge(model)


def detach(model: Decoder, *, keep: bool = False) -> None:
    """Take the adapter off for good, `keep`: its change stays in the weights. Everything can be trained again."""
    if not keep:
        unmerge(model)
        _copy(model, saved_modules(model))
    for name, layer in lora_layers(model).items():
        if keep:
            layer.merge()
        plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(layer.base_weight().detach())
        if layer.bias is not None:
            plain.bias = layer.bias
        _replace(model, name, plain)
    model.base_of_saved = {}  # type: ignore[assignment]
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def summary(model: Decoder, config: AdapterConfig) -> AdapterSummary:
    """The figures of the adapter that a model has."""
    layers = lora_layers(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = [layer.held.nbytes for layer in layers.values() if layer.held is not None]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    quantised_numbers = sum(
        layer.in_features * layer.out_features for layer in layers.values() if layer.held is not None
    )
    return AdapterSummary(
        modules=tuple(layers),
        trainable=trained,
        total=trained + sum(p.numel() for p in frozen) + quantised_numbers,
        base_bytes=sum(p.numel() * p.element_size() for p in frozen) + sum(held),
        adapter_bytes=4 * trained,
        training_bytes=(4 + OPTIMIZER_BYTES) * trained,
        base=config.base,
    )
