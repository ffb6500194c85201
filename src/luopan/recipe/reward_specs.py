"""What a recipe says of a reward model.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.epochs import MODEL_KINDS, EpochConfig
from luopan.recipe.parts import RowSource


class RewardSpec(EpochConfig):
    """A model that gives an answer a number: trained so that the better answer of a pair gets the higher one."""

    kind: Literal["reward"]
    model: str
    pairs: PositiveInt | None = Field(default=None, description="how many procedural pairs; exclusive with data")
    flaw: Literal["rude", "rambling"] = Field(default="rude", description="what the rejected answers have")
    data: tuple[RowSource, ...] = Field(default=(), description="the user's pairs; a column `margin` is heeded")
    max_length: PositiveInt = Field(description="tokens of a prompt with one answer")
    center_rewards_coefficient: float = Field(default=0.0, ge=0, description="keeps rewards around 0; 0.01 is usual")
    share_prompts: bool = Field(default=True, description="the prompt of a pair is computed once")
    test_pairs: PositiveInt = 200
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.pairs is None) == (not self.data):
            raise ValueError("give exactly one of pairs and data")
        if self.data and "flaw" in self.model_fields_set:
            raise ValueError("flaw has no effect on the user's pairs")
        if self.parallel != "replicas":
            raise ValueError(f"a reward model is trained with parallel: replicas, not {self.parallel}")
        return self
