"""Where a run that goes on from another run's checkpoint begins: decay a finished stable phase, as often as you like.

With a schedule that stays at its peak (wsd) a long phase is trained once; runs that branch off it at a checkpoint, with
their own `max_steps` and `decay_steps`, bring the rate down on whatever data they name (MiniCPM, arXiv:2404.06395,
section 4). Weights, optimizer state and the position in the data go on; random numbers and figures begin anew.
"""

from __future__ import annotations

import json
from pathlib import Path

from luopan.artifacts import verify
from luopan.errors import ArtifactError, TrainingError
from luopan.train.checkpoint import STATE_NAME, Checkpoint, Tensors, checkpoint_path, load, steps_saved
from luopan.train.config import TrainConfig
from luopan.train.schedule import first_row


def load_branch(found: Checkpoint, tensors: Tensors, config: TrainConfig, *, sharded: bool) -> None:
    """Weights, optimizer state and averages of the branch into `tensors`.

    TrainingError where the run that it leaves had other names or shapes, or counted its rows otherwise.
    """
    rows = first_row(config, found.state["data_step"])
    if rows != found.state["rows"]:
        raise TrainingError(
            f"by step {found.step} the branch has read {found.state['rows']} rows; with this run's batch it would be "
            f"{rows}, and data would be left out or read twice",
            hint="Keep per_device_train_batch_size x gradient_accumulation_steps and batch_warmup_steps as they were; "
            "to train on with another batch, use a midtrain stage.",
        )
    try:
        load(found, tensors, sharded=sharded)
    except ArtifactError as error:
        raise TrainingError(
            f"{found.path} does not fit this run: {error.message}",
            hint="model, optim and ema_decay must be those of the run that is branched.",
        ) from error


def branch_point(path: Path) -> Checkpoint:
    """The checkpoint in `path`, or the newest one of a folder of them, checked whole.

    ArtifactError where there is none or it is damaged: another one than was meant would be another run.
    """
    path = Path(path)
    if not (path / STATE_NAME).is_file():
        steps = steps_saved(path)
        if not steps:
            raise ArtifactError(
                "there is no checkpoint to begin from",
                where=path,
                hint="Name a checkpoint folder, such as step-001000.",
            )
        path = checkpoint_path(path, steps[-1])
    manifest = verify(path)
    if manifest.kind != "checkpoint":
        raise ArtifactError(f"this is a {manifest.kind}, not a checkpoint", where=path)
    state = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
    return Checkpoint(path, int(state["step"]), state)
