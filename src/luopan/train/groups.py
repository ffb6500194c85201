"""Which parameters are trained by which rule, by name: the groups of the optimizer, their table, their gradient norms.

Groups follow what a weight is for (embeddings, attention, mlp, experts, router, head, norms), so that a printed table
can be checked by eye and a norm per group says where a gradient explodes. Muon takes the matrices of attention, mlp
and experts; all else is AdamW's: embeddings, head and router are lookups and classifiers rather than maps between
hidden states.

Limits: a name that the decoder here does not use lands in "other". Adapters inside attention or mlp count as theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from luopan.errors import TrainingError
from luopan.train.config import OptimizerConfig

Rule = Literal["adamw", "adamw_8bit", "muon"]
ORDER = ("embeddings", "attention", "mlp", "experts", "router", "head", "norms", "other")
MUON_TAKES = ("attention", "mlp", "experts")


@dataclass(frozen=True)
class Group:
    """Parameters of one kind. Their learning rate is `factor` times that of the step."""

    name: str
    rule: Rule
    weight_decay: float
    factor: float
    parameters: dict[str, nn.Parameter]

    @property
    def tensors(self) -> int:
        """How many parameters it has."""
        return len(self.parameters)

    @property
    def elements(self) -> int:
        """How many numbers they hold."""
        return sum(parameter.numel() for parameter in self.parameters.values())


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get gradients, by name, in the model's order. TrainingError if none, or one is not fp32."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise TrainingError("the model has no trainable parameter", hint="Unfreeze some of it, or skip this stage.")
    for name, parameter in found.items():
        if parameter.dtype != torch.float32:
            raise TrainingError(
                f"the master weights must be fp32, but {name} is {parameter.dtype}",
                hint="Load the model with dtype=torch.float32; bf16 is for the computation only (precision: bf16).",
            )
    return found


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the weights of embeddings (a tied head is one of them)."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in weights}


def undecayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters without weight decay: embeddings, and everything with fewer than two dimensions."""
    return embedding_names(model) | {name for name, parameter in model.named_parameters() if parameter.ndim < 2}


def kind_of(name: str, parameter: Tensor) -> str:
    """The group of a parameter that is no embedding. "norms" holds biases and attention sinks too."""
    parts = name.split(".")
    if parameter.ndim < 2:
        return "norms"
    if parameter.ndim == 3 and "mlp" in parts:
        return "experts"
    if "self_attn" in parts:
        return "attention"
    if "mlp" in parts:
        return "router" if "gate" in parts or "router" in parts else "mlp"
    return "head" if "lm_head" in parts else "other"


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[Group]:
    """The model's trainable parameters in groups, in the order of `ORDER`; empty groups are left out."""
    embeddings, undecayed = embedding_names(model), undecayed_names(model)
    members: dict[str, dict[str, nn.Parameter]] = {name: {} for name in ORDER}
    for name, parameter in trainable_parameters(model).items():
        members["embeddings" if name in embeddings else kind_of(name, parameter)][name] = parameter
    beside = (config.adam_learning_rate or config.learning_rate) / config.learning_rate
    groups = []
    for kind, parameters in members.items():
        if not parameters:
            continue
        by_muon = config.optim == "muon" and kind in MUON_TAKES
        rule: Rule = "muon" if by_muon else "adamw_8bit" if config.optim == "adamw_8bit" else "adamw"
        decay = 0.0 if undecayed.issuperset(parameters) else config.weight_decay
        groups.append(Group(kind, rule, decay, 1.0 if by_muon else beside, parameters))
    check_rules(groups, config)
    return groups


def check_rules(groups: Sequence[Group], config: OptimizerConfig) -> None:
    """TrainingError for keys that have no parameter to act on in this model."""
    rules = {group.rule for group in groups}
    if config.optim == "muon" and "muon" not in rules:
        raise TrainingError(
            "optim: muon has nothing to train: no matrix of attention, mlp or experts is trainable",
            hint="Use optim: adamw.",
        )
    if config.adam_learning_rate is not None and rules == {"muon"}:
        raise TrainingError(
            "adam_learning_rate has no effect: Muon trains every trainable parameter of this model",
            hint="Leave the key out.",
        )


def group_table(groups: Sequence[Group], learning_rate: float) -> str:
    """The groups as lines of text, for the start of a training; `learning_rate` is the peak."""
    head = ("group", "rule", "tensors", "elements", "weight decay", "learning rate")
    rows = [
        (
            group.name,
            group.rule,
            f"{group.tensors:,}",
            f"{group.elements:,}",
            f"{group.weight_decay:g}",
            f"{group.factor * learning_rate:g}",
        )
        for group in groups
    ]
    total = ("all", "", f"{sum(g.tensors for g in groups):,}", f"{sum(g.elements for g in groups):,}", "", "")
    lines = [head, *rows, total]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    sides: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *[str.rjust] * 4]
    return "\n".join(
        "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)).rstrip()
        for line in lines
    )


def gradient_norms(groups: Sequence[Group], gradients: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """L2 norm of all gradients, and of each group's: scalars on the gradients' device, nothing waits for the host.

    `gradients` by parameter name; a parameter that has none is left out. One `_foreach_norm` over all of them; of
    sharded gradients (DTensor) the norm is that of the whole, by one exchange between the ranks.
    """
    members = [[name for name in group.parameters if name in gradients] for group in groups]
    names = [name for part in members for name in part]
    if not names:
        raise TrainingError("no parameter got a gradient", hint="Look at the loss: it does not depend on the model.")
    norms: Tensor = torch.stack(list(torch._foreach_norm([gradients[name] for name in names])))  # [parameters]
    if hasattr(norms, "full_tensor"):  # a DTensor
        norms = norms.full_tensor()
    parts = norms.split([len(part) for part in members])
    per_group = {
        group.name: torch.linalg.vector_norm(part) for group, part in zip(groups, parts, strict=True) if part.numel()
    }
    return torch.linalg.vector_norm(norms), per_group


def gradient_scale(norm: Tensor, weight: Tensor, max_norm: float | None) -> Tensor:
    """What summed gradients are multiplied by: one over the step's weight, and clipping to `max_norm` if it is given.

    `norm` is that of the mean loss's gradient, before clipping: that of the sums over the weight. Scalars all.
    """
    scale = 1.0 / weight
    return scale if max_norm is None else scale * torch.clamp(max_norm / (norm + 1e-6), max=1.0)
