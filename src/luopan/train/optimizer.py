"""The optimizer of a training: AdamW, Muon with AdamW beside it, or AdamW with 8-bit state.

AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) is torch's fused one over fp32 master weights; Muon is in `muon`;
8-bit state (Dettmers et al. 2022, arXiv:2110.02861) is torchao's. A bad update changes neither weights nor state. State
is made at once, not at the first step, so that a checkpoint has the same names from step 0 on.

Limits: AdamW and Muon leave a bad update out on the device; torchao's AdamW knows no such flag, so there the host reads
it, once a step, and waits for the device. 8-bit state was tried on the CPU only (torchao compiles for both); on CUDA it
has not run, and it is refused for sharded weights. Parameters of fewer than 4096 elements, or a number that is no
multiple of 256, keep fp32 state there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn

from luopan.errors import RecipeError
from luopan.train.config import OptimizerConfig
from luopan.train.groups import (
    Group,
    Rule,
    gradient_norms,
    gradient_scale,
    group_table,
    parameter_groups,
    trainable_parameters,
    undecayed_names,
)
from luopan.train.muon import Muon

__all__ = [
    "Group",
    "Optimizer",
    "check_device",
    "gradient_norms",
    "gradient_scale",
    "trainable_parameters",
    "undecayed_names",
]


def check_device(config: OptimizerConfig, device: torch.device | str) -> None:
    """RecipeError, naming the key, for an optimizer that this device or installation cannot run."""
    if config.optim != "adamw_8bit":
        return
    kind = torch.device(device).type
    if kind != "cuda":
        raise RecipeError(
            f"optim: adamw_8bit needs a CUDA device, and this training is on {kind}",
            hint="Use optim: adamw; 8-bit state saves memory that only a GPU is short of.",
        )
    if importlib.util.find_spec("torchao") is None:
        raise RecipeError("optim: adamw_8bit needs the package torchao", hint="pip install torchao")


class Optimizer:
    """Trains the parameters of `model` (already on `device`, and sharded if it is to be) as `config` says."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, device: torch.device | str) -> None:
        check_device(config, device)
        self.config = config
        self.parameters: dict[str, nn.Parameter] = trainable_parameters(model)
        self.groups: list[Group] = parameter_groups(model, config)
        rules: list[Rule] = sorted({group.rule for group in self.groups})
        self._by_rule = {rule: _MAKERS[rule]([g for g in self.groups if g.rule == rule], config) for rule in rules}

    def table(self) -> str:
        """Groups, rules, sizes, weight decay and peak learning rates, to be printed at the start."""
        return group_table(self.groups, self.config.learning_rate)

    def set_learning_rate(self, base: float) -> None:
        """The learning rate of the coming step; each group takes its factor of it."""
        for optimizer in self._by_rule.values():
            for group in optimizer.param_groups:
                rate = base * group["factor"]
                if isinstance(group["lr"], Tensor):  # torchao's: a number would make it compile anew
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that are there, by parameter name; the live tensors."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    def gradient_norms(self) -> tuple[Tensor, dict[str, Tensor]]:
        """As the function of that name, over the gradients that are there."""
        return gradient_norms(self.groups, self.gradients())

    @torch.no_grad()
    def step(self, gradients_scale: Tensor, bad: Tensor) -> None:
        """Multiply the gradients by `gradients_scale` and update; where `bad` is 1, weights and state stay as they are.

        Both are scalars on the device. The kernels of AdamW and Muon read `bad` there, as `found_inf`, as they do for
        torch's GradScaler; for 8-bit state the host reads it, once.
        """
        torch._foreach_mul_(list(self.gradients().values()), gradients_scale)
        bad = bad.to(torch.float32)
        for rule, optimizer in self._by_rule.items():
            if rule == "adamw_8bit" and bool(bad):
                continue
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = bad  # type: ignore[attr-defined]
            optimizer.step()

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All state by parameter name, for checkpoints: the live tensors, so loading into them restores it."""
        found: dict[str, dict[str, Tensor]] = {}
        for optimizer in self._by_rule.values():
            for name, parameter in self._named(optimizer):
                found[name] = _plain(optimizer.state[parameter])
        return {name: found[name] for name in self.parameters}

    def _named(self, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
        ours = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [(name, parameter) for name, parameter in self.parameters.items() if id(parameter) in ours]


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State with quantised tensors taken apart into what a checkpoint can hold: "exp_avg.codes", "exp_avg.scale"."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        codes, scale = getattr(value, "codes", None), getattr(value, "scale", None)
        if codes is not None and scale is not None:  # torchao's; its lookup table is a constant
            found |= {f"{key}.codes": codes, f"{key}.scale": scale}
        else:
            found[key] = value
    return found


# ---- the three rules ----


def _torch_groups(groups: list[Group]) -> list[dict[str, object]]:
    """As torch's optimizers take them. "factor" is ours and rides along."""
    return [
        {"params": list(group.parameters.values()), "weight_decay": group.weight_decay, "factor": group.factor}
        for group in groups
    ]


def _adamw(groups: list[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(
        _torch_groups(groups),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )
    for group in groups:
        for parameter in group.parameters.values():
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    return optimizer


def _muon(groups: list[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    return Muon(_torch_groups(groups), lr=config.learning_rate, momentum=config.momentum, ns_steps=config.ns_steps)


def _adamw_8bit(groups: list[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    """torchao makes its state in its first step, so that step is taken here: with no gradient, at a rate of 0."""
    from torchao.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(
        _torch_groups(groups), lr=0.0, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon
    )
    parameters = [parameter for group in groups for parameter in group.parameters.values()]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
        optimizer.state[parameter]["step"].zero_()
    return optimizer


_MAKERS: dict[Rule, Callable[[list[Group], OptimizerConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "muon": _muon,
    "adamw_8bit": _adamw_8bit,
}
