"""Seeding, and the state of every random generator as plain JSON, so that a resumed run draws what it would have drawn.

Ranks are seeded apart: what must be equal on all of them (the initial weights) is made before the loop seeds.
"""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python's, numpy's and torch's generators (all devices) from (seed, rank)."""
    own = int(np.random.SeedSequence([seed % 2**63, rank]).generate_state(1)[0])
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)


def random_state() -> dict[str, Any]:
    """The state of all generators of this process."""
    version, numbers, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, [int(key) for key in keys], place, has_gauss, cached],
        "torch": to_text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        state["cuda"] = [to_text(one) for one in torch.cuda.get_rng_state_all()]
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo everything drawn since `random_state`. CUDA's part is left out where the number of devices has changed."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(from_text(state["torch"]))
    cuda = state.get("cuda", [])
    if cuda and torch.cuda.is_available() and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all([from_text(one) for one in cuda])


def to_text(state: torch.Tensor) -> str:
    """A byte tensor as base64."""
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def from_text(text: str) -> torch.Tensor:
    """Base64 as a byte tensor."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
