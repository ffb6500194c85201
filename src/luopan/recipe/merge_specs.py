"""What a recipe says of merging models.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.parts import ChatSuite, Spec


class MergeSpec(Spec):
    """One model out of the weights of several of the same shape."""

    kind: Literal["merge"]
    models: tuple[str, ...] = Field(min_length=2)
    method: Literal["linear", "slerp", "task_arithmetic", "ties"] = "linear"
    weights: tuple[float, ...] | None = Field(default=None, description="one for each model; default: alike")
    normalize: bool = Field(default=True, description="linear: divide by the sum of the weights")
    base: str | None = Field(default=None, description="task_arithmetic, ties: the stage the models were trained from")
    t: float | None = Field(
        default=None, ge=0, le=1, description="slerp: 0 is the first model, 1 the second; default 0.5"
    )
    density: float | None = Field(default=None, gt=0, le=1, description="ties: share of each change kept; default 0.5")
    scale: float | None = Field(
        default=None, description="task_arithmetic, ties: what the changes are times; default 1"
    )
    suite: ChatSuite = ChatSuite()
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"models": MODEL_KINDS, "base": MODEL_KINDS}

    @model_validator(mode="after")
    def _keys_work(self) -> Self:
        based = self.method in ("task_arithmetic", "ties")
        for key, acts in (("t", self.method == "slerp"), ("density", self.method == "ties"), ("scale", based)):
            if getattr(self, key) is not None and not acts:
                raise ValueError(f"{key} has no effect with method {self.method}")
        if based != (self.base is not None):
            raise ValueError(f"method {self.method} {'needs a base' if based else 'takes no base'}")
        if self.method == "slerp" and (self.weights is not None or len(self.models) != 2):
            raise ValueError("slerp takes two models and t, no weights")
        if self.weights is not None and len(self.weights) != len(self.models):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models")
        if not self.normalize and (self.method != "linear" or self.weights is None):
            raise ValueError("normalize: false has no effect without linear and weights")
        return self
