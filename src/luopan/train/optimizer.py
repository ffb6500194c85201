"""Fused AdamW over fp32 master weights, and its state by parameter name.

Weight decay falls on matrices only: norms, biases and embeddings (a tied head included) keep their scale. The state is
made at once, not at the first step, so that a checkpoint has the same names from step 0 on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luopan.errors import TrainingError
from luopan.train.config import OptimizerConfig


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


def undecayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters without weight decay: embeddings, and everything with fewer than two dimensions."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, p in model.named_parameters() if p.ndim < 2 or id(p) in embeddings}


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), fused, with its state made and zero."""
    parameters = trainable_parameters(model)
    undecayed = undecayed_names(model)
    groups = [
        {"params": [p for n, p in parameters.items() if n not in undecayed], "weight_decay": config.weight_decay},
        {"params": [p for n, p in parameters.items() if n in undecayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )
    for parameter in parameters.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimizer's state by parameter name; the tensors are the live ones, so loading into them restores it."""
    parameters = trainable_parameters(model)
    return {name: dict(optimizer.state[parameter]) for name, parameter in parameters.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def apply_gradients(
    optimizer: torch.optim.Optimizer, gradients: list[Tensor], total: Tensor, weight: Tensor, max_norm: float | None
) -> tuple[Tensor, Tensor]:
    """Divide the summed gradients by the step's weight, clip, and update. Returns (gradient norm, bad), both scalars.

    The norm is that of the mean loss's gradient, before clipping. `bad` is 1 where loss or norm is not finite or the
    weight is 0; the update is then left out. Both stay on the device: AdamW reads `found_inf` there (as it does for
    torch's GradScaler), so nothing waits for the host.
    """
    norm = torch.nn.utils.get_total_norm(gradients) / weight
    bad = (~(torch.isfinite(norm) & torch.isfinite(total)) | (weight == 0)).to(torch.float32)
    scale = 1.0 / weight
    if max_norm is not None:
        scale = scale * torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(gradients, scale)
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()
    return norm, bad
