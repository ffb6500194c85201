"""What a training asks for and this machine lacks, said before any stage starts rather than when its turn comes."""

from __future__ import annotations

import importlib.util
import shutil

from luopan.errors import RecipeError
from luopan.train.config import OptimizerConfig, TrainConfig
from luopan.train.device import pick_device
from luopan.train.optimizer import check_device
from luopan.train.tracking import not_installed


def check_training(config: OptimizerConfig) -> None:
    """RecipeError or TrainingError, naming the key, for a device, package or program that is not there."""
    check_device(config, pick_device())
    if not isinstance(config, TrainConfig):
        return
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise not_installed(name)
    for key in ("upload_command", "upload_verify_command"):
        words = getattr(config, key)
        if words and shutil.which(words[0]) is None:
            raise RecipeError(f"{key}: there is no program {words[0]!r} here", hint="Install it, or mend PATH.")
    if config.critical_batch_probe and config.parallel != "replicas":
        raise RecipeError(
            f"critical_batch_probe needs the gradient of one micro-batch; parallel: {config.parallel} has none",
            hint="Use parallel: replicas while probing, or leave the probe out.",
        )
