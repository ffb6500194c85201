"""What must hold at the start of a training: gradients reach every weight, and all ranks hold the same ones.

What is watched while it runs is elsewhere: left-out updates in `spikes.py`, the machine in `alarms.py`, standstills in
`watchdog.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from luopan.errors import TrainingError
from luopan.train.ranks import gather_objects, world_size


def gradients_reach_all(parameters: Mapping[str, nn.Parameter], step: int) -> bool:
    """Whether the step taught every parameter something: TrainingError if it taught some and left others out.

    False if no gradient is other than zero, which happens on policy when all answers are worth the same: look again in
    the next step. A parameter whose gradient is missing altogether is an error in any case. Every rank calls it: one
    shard of a weight may well get nothing, so what counts is whether any rank's does.
    """
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    lacking = [name for name, gradient in gradients.items() if gradient is None]
    present = {name: local(gradient) for name, gradient in gradients.items() if gradient is not None}
    # While B of an adapter is zero, its A gets none: that is how one begins, and how it equals the model without it.
    waiting = {name for name in present if name.endswith("lora_A") and name[:-1] + "B" in present}
    moved = torch.stack([gradient.ne(0).any() for gradient in present.values()]).tolist() if present else []
    if world_size() > 1:
        moved = [any(ranks) for ranks in zip(*gather_objects(moved), strict=True)]
    if any(moved):
        still = {name for name, one in zip(present, moved, strict=True) if not one}
        lacking += [
            name for name in present if name in still and not (name in waiting and name[:-1] + "B" not in still)
        ]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise TrainingError(
            f"no gradient reaches {shown} in step {step}",
            hint="Such weights would never learn. Freeze them, or set check_gradients: false if this is meant.",
        )
    return any(moved)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor; any other tensor as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def check_same_weights(parameters: Mapping[str, Tensor]) -> None:
    """Every rank must start from the same weights: different seeds would train a model that exists nowhere.

    Only for replicas, or before the weights are sharded.
    """
    if world_size() == 1:
        return
    digests = gather_objects([float(parameter.detach().double().sum()) for parameter in parameters.values()])
    if any(digest != digests[0] for digest in digests):
        raise TrainingError(
            "the ranks start from different weights",
            hint="Make or load the model from the same seed or folder on every rank.",
        )
