"""What a user may say about a mixture: weights, stages, caps, temperature. Imports neither torch nor numpy.

`MixtureConfig` is a part of the specs that train on text. How long the stages are in rows (`stage_rows`) is here as
well, so that a recipe whose stages do not fit its length is refused when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

CORPUS = "corpus"  # in a mixture: every source that was read and is not named
END_TOLERANCE = 0.01  # of the run: how far the stages' lengths may miss its end, which is a whole number of steps

MixtureMap = dict[str, Annotated[float, Field(ge=0)]]


class MixtureStageConfig(BaseModel):
    """A stretch of the run under one mixture, given in tokens or as a share of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: PositiveInt | None = Field(default=None, description="how long it lasts; or share; the last may leave both")
    share: float | None = Field(default=None, gt=0, lt=1, description="how long it lasts, of the whole run")
    mixture: MixtureMap = Field(min_length=1, description="weight per source in this stage")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.tokens is not None and self.share is not None:
            raise ValueError("give tokens or share, not both")
        return self


class MixtureConfig(BaseModel):
    """Which sources are read, how much of each, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mixture: MixtureMap | None = Field(
        default=None,
        description="weight per source, by tokens; `corpus` stands for all that are not named; default: by size",
    )
    mixture_stages: tuple[MixtureStageConfig, ...] | None = Field(
        default=None, min_length=2, max_length=12, description="a mixture for each stretch of the run; or mixture"
    )
    max_epochs: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None, description="how often a source may be read, one number or one per source; others take its place"
    )
    mixture_temperature: float | None = Field(
        default=None, gt=0, description="where sizes decide, they count as size^(1/temperature); 1: as they are"
    )

    @model_validator(mode="after")
    def _mixture_is_whole(self) -> Self:
        if self.mixture is not None and self.mixture_stages is not None:
            raise ValueError("give mixture or mixture_stages, not both")
        maps = mixture_maps(self)
        if self.mixture_temperature is not None and maps and not any(CORPUS in one for one in maps):
            raise ValueError("mixture_temperature has no effect: every source's weight is given, none goes by size")
        if isinstance(self.max_epochs, dict) and not self.max_epochs:
            raise ValueError("max_epochs names no source")
        check_open_stage(self.mixture_stages or ())
        return self


def mixture_maps(config: MixtureConfig) -> list[MixtureMap]:
    """The mixtures that are written down: none, one, or one per stage."""
    if config.mixture_stages is not None:
        return [stage.mixture for stage in config.mixture_stages]
    return [] if config.mixture is None else [config.mixture]


def check_open_stage(stages: Sequence[MixtureStageConfig]) -> None:
    """ValueError for a stage without a length before the last, and for shares that cannot make up a run."""
    for number, stage in enumerate(stages[:-1], 1):
        if stage.tokens is None and stage.share is None:
            raise ValueError(f"stage {number} of mixture_stages needs tokens or share: only the last may take the rest")
    shares = [stage.share for stage in stages if stage.share is not None]
    whole = len(shares) == len(stages) and stages
    total = sum(shares)
    if (whole and abs(total - 1) > END_TOLERANCE) or (shares and not whole and total >= 1):
        raise ValueError(f"the shares of mixture_stages add up to {total:g}" + ("" if whole else ", with more to come"))


def stage_rows(stages: Sequence[MixtureStageConfig], rows: int, sequence_length: int) -> list[int]:
    """How many of a run's `rows` each stage has; they add up to `rows`. A row counts `sequence_length` tokens.

    The last stage goes on to the end. ValueError, with the figures, where its length says something else (by more than
    a hundredth of the run) or where a stage comes to less than a row.
    """
    run, end = rows * sequence_length, 0.0  # tokens
    borders = [0]
    for stage in stages:
        left = run - end
        end += left if stage.tokens is stage.share is None else stage.tokens or (stage.share or 0.0) * run
        borders.append(round(end / sequence_length))
    if abs(end - run) > END_TOLERANCE * run:
        raise ValueError(f"mixture_stages are {end:,.0f} tokens long in all, and the run reads {run:,}")
    borders[-1] = rows
    found = [after - before for before, after in pairwise(borders)]
    for number, count in enumerate(found, 1):
        if count < 1:
            raise ValueError(
                f"stage {number} of mixture_stages has nothing to read: the stages before it take {end:,.0f} of the "
                f"run's {run:,} tokens"
                if number == len(found)
                else f"stage {number} of mixture_stages is shorter than a row of {sequence_length} tokens"
            )
    return found
