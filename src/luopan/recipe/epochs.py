"""What stages that train on a set of known size say of its length; and which stages make a model.

No torch is imported here.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from luopan.errors import RecipeError
from luopan.train.config import TrainConfig

MODEL_KINDS = (
    "import", "pretrain", "midtrain", "sft", "preference", "grpo", "ppo", "online_dpo", "rejection", "distill", "merge",
)  # fmt: skip
"""Stages whose model can be trained further, asked, merged."""


class EpochConfig(TrainConfig):
    """Training on a set of known size: its length may be given in epochs instead of steps."""

    max_steps: PositiveInt | None = Field(default=None, description="optimizer steps; or num_train_epochs")  # type: ignore[assignment]
    num_train_epochs: float | None = Field(default=None, gt=0, description="how often each row is seen; or max_steps")

    seed: int | None = Field(default=None, description="default: made of the recipe's seed and the stage's name")

    @model_validator(mode="after")
    def _keys_have_effect(self) -> Self:
        """Replaces the check of the base class, which needs the number of steps: `with_steps` makes it."""
        if (self.max_steps is None) == (self.num_train_epochs is None):
            raise ValueError("give exactly one of max_steps and num_train_epochs")
        try:
            self.with_steps(self.max_steps or 1_000_000)
        except RecipeError as error:
            raise ValueError(error.message) from error
        return self

    def check_adapter(self, adapter: object) -> None:
        """ValueError for an adapter that cannot be trained in this way."""
        if adapter is not None and self.parallel != "replicas":
            raise ValueError(f"an adapter is trained with parallel: replicas, not {self.parallel}")

    def with_steps(self, max_steps: int) -> TrainConfig:
        """The training configuration once the number of steps is known."""
        values = self.model_dump(include=set(TrainConfig.model_fields), exclude_unset=True)
        try:
            return TrainConfig.model_validate({**values, "max_steps": max_steps})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise RecipeError(reason, hint=f"num_train_epochs comes to {max_steps} steps here") from error
