"""What each process of test_distributed_fit.py runs: trainings through the loop, whole, stopped, resumed, killed.

`python fit_script.py FOLDER TASK …`; the tasks are the functions at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rank_toys import settings, text_rows, toy_model

from luopan.errors import Interrupted
from luopan.tokens.batch import Batch
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.ranks import barrier, processes, rank, world_size
from luopan.train.shares import micro_batch_rows

STOP = 3
# Large epsilon: Adam's division by a tiny root would blow the rounding of sums up.
PLAIN: dict[str, Any] = {"save_steps": 2, "adam_epsilon": 1e-2, "per_device_train_batch_size": 1}
PLAIN |= {"gradient_accumulation_steps": 5, "ema_decay": 0.9, "spike_sigma": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "replicas": PLAIN,
    "full_shard": {**PLAIN, "parallel": "full_shard"},
    "muon": {**PLAIN, "parallel": "full_shard", "optim": "muon", "learning_rate": 1e-3, "activation_recompute": "full"},
}


class StepRows:
    """Rows that follow from the step alone, shared out; `at` one step `press` is called."""

    def __init__(self, config: TrainConfig, at: int | None = None, press: Any = None) -> None:
        self.config, self.at, self.press = config, at, press

    def micro_batches(self, step: int) -> list[Batch]:
        if step == self.at:
            self.press()
        return [text_rows(numbers) for numbers in micro_batch_rows(self.config, step, rank(), world_size())]


def train(folder: Path, variant: str, at: int | None = None, press: Any = None) -> dict[str, torch.Tensor]:
    """Train to the end, or go on; the weights."""
    config = settings(**VARIANTS[variant])
    model = toy_model()
    fit(
        model, StepRows(config, at, press), causal_lm_loss, config, folder, device="cpu", seed=3,
        progress=SilentProgress(),
    )  # fmt: skip
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def stop(folder: Path, variant: str) -> None:
    """Train until the last rank is asked to stop, in the step after `STOP` updates."""
    last = rank() == world_size() - 1
    press = partial(os.kill, os.getpid(), signal.SIGTERM) if last else lambda: None
    try:
        train(folder, variant, STOP, press)
    except Interrupted:
        return
    raise AssertionError("was not stopped")


def copied(folder: Path, name: str) -> Path:
    """A copy beside it that every rank sees."""
    target = folder.with_name(name)
    if rank() == 0:
        shutil.copytree(folder, target)
    barrier()
    return target


def all_ways(root: Path, variant: str) -> None:
    """Whole; stopped and gone on with; gone on with what one process had begun."""
    whole = train(root / f"{variant}-two", variant)
    torch.save(whole, root / f"{variant}-two-{rank()}.pt")
    stop(root / f"{variant}-stopped", variant)
    again = train(copied(root / f"{variant}-stopped", f"{variant}-again"), variant)
    assert all(torch.equal(again[name], value) for name, value in whole.items()), "a resumed run has other bits"
    torch.save(train(root / f"{variant}-one-to-two", variant), root / f"{variant}-one-to-two-{rank()}.pt")


def killed(root: Path, variant: str) -> None:
    """Rank 1 is killed once; whoever starts the processes again finds the rest done."""

    def die() -> None:
        if rank() == 1 and not (root / "died").exists():
            (root / "died").write_text(f"{os.getpid()}")
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save(train(root / "killed", variant, 4, die), root / f"killed-{rank()}.pt")


def main(root: Path, task: str, variant: str) -> None:
    torch.set_num_threads(1)
    with processes():
        {"all_ways": all_ways, "killed": killed}[task](root, variant)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
