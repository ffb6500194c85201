"""Specs about mixtures: what every stage that trains on text says of it, and the ablation of mixtures.

No torch is imported here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.model.config import ModelConfig
from luopan.tokens.mixture_config import CORPUS, MixtureConfig, stage_rows
from luopan.train.config import TrainConfig
from luopan.train.schedule import first_row

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # a candidate's name is part of a file's


class TextSpec(TrainConfig, MixtureConfig):
    """Training on rows of running text: a part of the specs of `pretrain` and `midtrain`."""

    sequence_length: PositiveInt = Field(description="tokens in a row")
    seed: int | None = Field(default=None, description="default: made of the recipe's seed and the stage's name")

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        check_stages(self, first_row(self, self.max_steps), self.sequence_length)
        return self


def check_stages(config: MixtureConfig, rows: int, sequence_length: int) -> None:
    """ValueError where the stages of a mixture do not make up a run of so many rows."""
    if config.mixture_stages is not None:
        stage_rows(config.mixture_stages, rows, sequence_length)


class MixtureAblationSpec(TrainConfig):
    """Train a small proxy on each candidate mixture, with several seeds, and say which is best above the noise."""

    kind: Literal["mixture_ablation"]
    corpus: str
    tokenizer: str
    model: ModelConfig = Field(description="the proxy")
    sequence_length: PositiveInt
    candidates: dict[Annotated[str, Field(pattern=NAME)], MixtureConfig] = Field(
        min_length=2, description="what to compare, by name; the first is the baseline"
    )
    seeds: int = Field(default=3, ge=2, le=50, description="trainings per candidate; the same seeds for all of them")
    target: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None, description="weight of each source's held-out text in the verdict; default: each alike"
    )
    confidence: float = Field(default=0.95, ge=0.5, lt=1, description="of the verdict, over all comparisons together")
    eval_bytes: PositiveInt = Field(default=60_000, description="held-out bytes measured per source")
    z_loss_coef: float = Field(default=0.0, ge=0, description="as in pretrain")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"corpus": ("curate",), "tokenizer": ("tokenizer",)}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"sequence_length {self.sequence_length} is longer than model.max_position_embeddings "
                f"{self.model.max_position_embeddings}"
            )
        if self.target is not None and (CORPUS in self.target or not any(self.target.values())):
            raise ValueError("target gives a weight to sources by their names, to one of them at least")
        said: dict[str, MixtureConfig] = {}
        for name, candidate in self.candidates.items():
            try:
                check_stages(candidate, first_row(self, self.max_steps), self.sequence_length)
            except ValueError as error:
                raise ValueError(f"candidates.{name}: {error}") from error
            twin = next((other for other, config in said.items() if config == candidate), None)
            if twin is not None:
                raise ValueError(f"candidates {twin} and {name} are the same")
            said[name] = candidate
        return self
