"""Sampling with weights that are some updates old: what a server does that is not given new ones each time.

Off by default. A copy of the policy samples, and takes the policy's weights over every so many generations, so the age
of what samples is bounded (`policy_lag`, in updates) and a function of the generation alone. What is taken over is
written down where it will be needed again: a run that is killed goes on with the same copy, to the bit.

Limits: sampling and training still take turns; what is saved is the handing over. One more model is in memory.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from luopan.artifacts import atomic_write_bytes
from luopan.errors import ArtifactError
from luopan.model.decoder import Decoder
from luopan.train.checkpoint import steps_saved
from luopan.train.ranks import rank

_NAME = re.compile(r"sampler-(\d{6,})\.safetensors")


def generations_behind(policy_lag: int, updates: int) -> int:
    """How many generations of `updates` updates each the weights may be behind."""
    return policy_lag // updates


@dataclass
class StalePolicy:
    """The copy that samples. behind: how many generations more than its own it serves, at least 1. updates: of one
    generation. folder: of the rollouts."""

    policy: Decoder
    behind: int
    updates: int
    folder: Path
    model: Decoder = field(init=False)
    _taken: int | None = None

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.policy).requires_grad_(False).eval()

    def refresh(self, generation: int) -> int:
        """Make the copy what samples this generation; returns the update at which its weights were the policy's."""
        first = generation - generation % (self.behind + 1)
        if generation == first:
            state = {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}
            self.model.load_state_dict(state)
            if rank() == 0:
                self._write(first, state)
        elif self._taken != first:
            self.model.load_state_dict(self._read(first))
        self._taken = first
        return first * self.updates

    def _write(self, generation: int, state: dict[str, torch.Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        cpu = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        atomic_write_bytes(self._file(generation), save(cpu))
        saved = steps_saved(self.folder.parent / "checkpoints")
        oldest = (saved[0] // self.updates if saved else 0) - self.behind  # a run may go back to its oldest checkpoint
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) < oldest:
                path.unlink(missing_ok=True)

    def _read(self, generation: int) -> dict[str, torch.Tensor]:
        file = self._file(generation)
        try:
            return load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"the weights that generation {generation} was sampled with cannot be read: {error}",
                where=file,
                hint="Put the file back, or remove the newest checkpoint, so that the run goes on from an earlier one.",
            ) from None

    def _file(self, generation: int) -> Path:
        return self.folder / f"sampler-{generation:06d}.safetensors"
