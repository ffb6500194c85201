"""The training stages of a recipe as plans: whose model they train, on how many tokens, on this machine.

A stage whose length is given in epochs, or whose model comes from a hub, cannot be counted before its data or model is
there: it is listed with the reason. Prompts, rewards and evaluations of the stages that learn from rollouts are not
counted, their answers at their longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.model.config import ModelConfig
from luopan.train.config import TrainConfig


@dataclass(frozen=True)
class StagePlan:
    """`config` is None where something is not known yet; `reason` says what."""

    name: str
    kind: str
    model: ModelConfig | None
    config: TrainConfig | None
    length: int
    trained: float = 1.0
    sampled: int = 0  # tokens that the stage generates in a step, at most
    reason: str = ""

    @property
    def tokens_per_step(self) -> int:
        return 0 if self.config is None else self.config.rows_per_step * self.length

    @property
    def tokens(self) -> int:
        return 0 if self.config is None else self.tokens_per_step * self.config.max_steps


def stage_plans(stages: Mapping[str, Any]) -> list[StagePlan]:
    """Of every stage that trains, in the recipe's order."""
    models: dict[str, ModelConfig | None] = {}
    found = []
    for name, spec in stages.items():
        own = getattr(spec, "model", None)
        if isinstance(own, ModelConfig):
            models[name] = own
        elif isinstance(own, str):
            models[name] = models.get(own)
        elif spec.kind == "import":
            models[name] = imported(spec.path)
        elif spec.kind == "merge":
            models[name] = models.get(spec.models[0])
        if not isinstance(spec, TrainConfig):
            continue
        found.append(_stage(name, spec, models.get(name)))
    return found


def _stage(name: str, spec: Any, model: ModelConfig | None) -> StagePlan:
    length = int(getattr(spec, "sequence_length", None) or getattr(spec, "max_length", 0) or 0)
    if model is None:
        return StagePlan(name, spec.kind, None, None, length, reason="its model is not known before it is there")
    if spec.max_steps is None:
        reason = f"num_train_epochs {spec.num_train_epochs:g}: its length is known when its data is"
        return StagePlan(name, spec.kind, model, None, length, reason=reason)
    sampled = 0
    if hasattr(spec, "prompts_per_step"):
        each = getattr(spec, "num_generations", 1)
        sampled = spec.prompts_per_step * each * spec.max_completion_length
    times = 2 if spec.kind in ("preference", "reward") else 1
    return StagePlan(name, spec.kind, model, spec, length * times, sampled=sampled)


def imported(path: str) -> ModelConfig | None:
    """The shape of an imported folder, where it can be read without the network."""
    folder = Path(path)
    folder = folder if (folder / "config.json").is_file() else folder / "model"
    if not (folder / "config.json").is_file():
        return None
    from luopan.model import hf

    return hf.read_config(folder)
