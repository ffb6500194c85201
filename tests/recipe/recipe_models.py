"""A small recipe model of our own, so that these tests do not depend on what the stages of the day are called."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shape(Closed):
    hidden_size: int = Field(default=8, gt=0)
    mode: Literal["dense", "sparse"] = "dense"


class Item(Closed):
    skill: str
    count: int | None = None


class MakeSpec(Closed):
    """Makes something."""

    kind: Literal["make"]
    steps: int = Field(default=3, gt=0, description="how many steps")
    learning_rate: float = 0.1
    shape: Shape = Shape()
    word: str | None = None
    flag: bool = False
    data: tuple[Item, ...] = ()
    weights: dict[str, float] | None = None
    schedule: Literal["wsd", "cosine"] = "wsd"
    decay: float | None = None

    @model_validator(mode="after")
    def _effect(self) -> Self:
        if self.decay is not None and self.schedule != "wsd":
            raise ValueError("decay has no effect with schedule cosine")
        return self


class UseSpec(Closed):
    kind: Literal["use"]
    source: str
    others: tuple[str, ...] = ()
    factor: int = 1
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"source": ("make", "use"), "others": ("use",)}


class TrialRecipe(Closed):
    name: str
    seed: int = 0
    stages: dict[str, Annotated[MakeSpec | UseSpec, Field(discriminator="kind")]] = Field(min_length=1)
