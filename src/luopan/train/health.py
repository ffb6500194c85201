"""What must hold while training, checked as it runs: gradients reach every weight, numbers are finite, ranks agree."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from luopan.errors import TrainingError
from luopan.train.ranks import gather_objects, world_size

MAX_SKIPPED_IN_A_ROW = 5


def gradients_reach_all(parameters: Mapping[str, nn.Parameter], step: int) -> bool:
    """Whether the step taught every parameter something: TrainingError if it taught some and left others out.

    False if no gradient is other than zero, which happens on policy when all answers are worth the same: look again in
    the next step. A parameter whose gradient is missing altogether is an error in any case.
    """
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    lacking = [name for name, gradient in gradients.items() if gradient is None]
    present = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    moved = torch.stack([gradient.ne(0).any() for gradient in present.values()]).tolist() if present else []
    if any(moved):
        lacking += [name for name, one in zip(present, moved, strict=True) if not one]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise TrainingError(
            f"no gradient reaches {shown} in step {step}",
            hint="Such weights would never learn. Freeze them, or set check_gradients: false if this is meant.",
        )
    return any(moved)


class Health:
    """Counts skipped and empty steps on the device; the host looks when it is told to."""

    def __init__(self, device: torch.device) -> None:
        # [updates skipped in a row, skipped in all, steps in a row without anything to learn]
        self.counts = torch.zeros(3, device=device)
        self.reported = 0

    def add(self, bad: Tensor, weight: Tensor) -> None:
        """A step's `bad` (0 or 1) and its weight, scalars on the device."""
        empty = (weight == 0).to(bad)
        counts = self.counts
        self.counts = torch.stack(((counts[0] + 1) * bad, counts[1] + bad, (counts[2] + 1) * empty))

    def check(self, step: int) -> str | None:
        """Read the counts after `step` updates: a warning for newly skipped steps, TrainingError if it cannot go on."""
        in_a_row, skipped, empty = (int(value) for value in self.counts.tolist())
        if empty:
            raise TrainingError(
                f"there is nothing to learn in step {step - 1}: no trained token in the whole step",
                hint="Look at what is trained (luopan template render); max_length may cut off every answer.",
            )
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"loss or gradient is not a finite number, {in_a_row} steps in a row, up to step {step - 1}",
                hint="Lower learning_rate or max_grad_norm, or lengthen the warm-up. The last checkpoint is sound.",
            )
        new, self.reported = skipped - self.reported, skipped
        if new <= 0:
            return None
        return f"WARNING: up to step {step - 1}, {new} skipped: loss or gradient was not finite ({skipped} in all)."

    @property
    def skipped(self) -> int:
        """Updates skipped so far, as of the last check."""
        return self.reported

    def state(self) -> list[float]:
        """For a checkpoint."""
        return self.counts.tolist()

    def restore(self, state: list[float]) -> None:
        """From a checkpoint."""
        self.counts = torch.tensor(state, dtype=torch.float32, device=self.counts.device)
        self.reported = int(state[1])


def check_same_weights(parameters: Mapping[str, Tensor]) -> None:
    """Every rank must start from the same weights: different seeds would train a model that exists nowhere."""
    if world_size() == 1:
        return
    digests = gather_objects([float(parameter.detach().double().sum()) for parameter in parameters.values()])
    if any(digest != digests[0] for digest in digests):
        raise TrainingError(
            "the ranks start from different weights",
            hint="Make or load the model from the same seed or folder on every rank.",
        )
