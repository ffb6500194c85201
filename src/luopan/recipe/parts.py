"""The smaller parts of stage specs: procedural texts, conversations, and the questions that a chat model is asked.

See `luopan.recipe.specs` for the stages that are made of them. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from luopan.generate.config import SamplingParams
from luopan.tokens.formats import FormatName

Scalar = bool | int | float | str | None


class Spec(BaseModel):
    """Frozen, closed: what is written is all there is."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SkillDocuments(Spec):
    """Procedural text for pretraining: `documents` texts of one skill (see `luopan.corpus.skills`).

    `long:note`, `long:story` and `long:mixed` are texts whose later parts need their beginning, for longer contexts.
    """

    skill: str = Field(description="name of the skill, e.g. addition; or long:note, long:story, long:mixed")
    documents: PositiveInt = Field(description="how many documents to make")
    source: str = Field(
        default="skills", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="what mixtures call these documents"
    )
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict, description="options of the skill")

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        refuse_reserved(self.options, ("split", "seed", "n"))
        if self.source == "corpus":
            raise ValueError("source cannot be corpus: in a mixture that stands for all texts that were read")
        return self


def refuse_reserved(options: dict[str, Any], names: tuple[str, ...]) -> None:
    """ValueError for an option that is not the skill's to have: test questions must never be trained on."""
    for name in names:
        if name in options:
            raise ValueError(f"options cannot hold {name!r}: the stage decides it")


class RowSource(Spec):
    """Rows of the user's: a file, a folder of files, or a Hugging Face dataset. Exactly one of `path` and `dataset`."""

    path: str | None = Field(default=None, description=".jsonl[.gz|.zst], .json, .parquet, .csv, or a folder of these")
    dataset: str | None = Field(default=None, description="a Hugging Face dataset: a name on the hub, or a folder")
    config: str | None = Field(default=None, description="of the dataset, where it has several")
    split: str | None = Field(default=None, description="of the dataset; default: train")
    revision: str | None = Field(default=None, description="of the dataset: commit, tag or branch")
    format: FormatName | None = Field(default=None, description="default: told from the columns, and said")
    columns: dict[str, str] = Field(default_factory=dict, description="other names of columns: {theirs: ours}")
    examples: PositiveInt | None = Field(default=None, description="at most so many rows, the first ones")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="a share of the rows, spread over all of them")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self._places != 1:
            raise ValueError("give exactly one of path and dataset")
        self._check_rows()
        return self

    @property
    def _places(self) -> int:
        return (self.path is not None) + (self.dataset is not None)

    def _check_rows(self) -> None:
        idle = [key for key in ("config", "split", "revision") if getattr(self, key) is not None]
        if self.dataset is None and idle:
            raise ValueError(f"{idle[0]} has no effect without dataset")
        if self.fraction is not None and self.examples is not None:
            raise ValueError("examples and fraction both say how many rows: give one")

    @property
    def name(self) -> str:
        """What the mixture table calls this source."""
        return ":".join(filter(None, [self.dataset, self.config, self.split])) if self.dataset else str(self.path)


class ChatSource(RowSource):
    """Conversations: made by a skill generator, or the user's rows. Exactly one of `skill`, `path` and `dataset`."""

    skill: str | None = Field(default=None, description="a procedural skill, or identity, talk, persona")
    examples: PositiveInt | None = Field(default=None, description="how many; required for a skill")
    thinking: float = Field(default=0.0, ge=0, le=1, description="share of the examples with enable_thinking on")
    flaw_rate: float = Field(default=0.0, ge=0, le=1, description="share of replies with the flaw, as raw data has it")
    flaw: Literal["rude", "rambling"] = Field(default="rude", description="which flaw; see corpus.skills.pairs")
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict, description="options of the skill")
    mode: Literal["think", "no_think"] | None = Field(
        default=None, description="enable_thinking of all rows of this source; default: as each row says"
    )
    as_text: bool = Field(default=False, description="prompt and completion are text: no template is put around them")
    weight: float | None = Field(default=None, gt=0, description="share of the mixture's tokens; for all or none")
    max_epochs: float = Field(default=1.0, gt=0, description="with weight: how often a row may be read for one epoch")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self._places + (self.skill is not None) != 1:
            raise ValueError("give exactly one of skill, path and dataset")
        if self.skill is not None:
            self._check_skill()
        elif self.options or self.thinking or self.flaw_rate:
            raise ValueError("options, thinking and flaw_rate have no effect on a file: its rows say what they are")
        self._check_rows()
        refuse_reserved(self.options, ("split", "seed", "n", "thinking"))
        if "flaw" in self.model_fields_set and not self.flaw_rate:
            raise ValueError("flaw has no effect with flaw_rate 0")
        if "max_epochs" in self.model_fields_set and self.weight is None:
            raise ValueError("max_epochs has no effect without weight")
        return self

    def _check_skill(self) -> None:
        if self.examples is None:
            raise ValueError(f"examples is required for skill {self.skill!r}")
        for key in ("format", "columns", "fraction", "mode", "as_text"):
            if getattr(self, key):
                raise ValueError(f"{key} has no effect on a skill")

    @property
    def name(self) -> str:
        """What the mixture table calls this source."""
        return self.skill or super().name


def check_weights(sources: Sequence[ChatSource]) -> None:
    """ValueError where some sources of a mixture have a weight and others have none."""
    without = [source.name for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        raise ValueError(f"weight is given for some sources and not for {without[0]}: give it for all or for none")


class SkillTest(Spec):
    """Held-out cases of one skill, asked with and/or without thinking."""

    skill: str
    cases: PositiveInt = 50
    thinking: bool = False
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        refuse_reserved(self.options, ("split", "seed", "n", "thinking"))
        return self

    @property
    def name(self) -> str:
        """Unique within a suite: the skill, how it differs from the default, and whether it thinks."""
        extra = "".join(f" {key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.skill}{extra}{' (thinking)' if self.thinking else ''}"


class ChatSuite(Spec):
    """What a chat model is asked before and after a stage."""

    tests: tuple[SkillTest, ...] = ()
    sampling: SamplingParams = SamplingParams(max_new_tokens=96, temperature=0.0)

    @model_validator(mode="after")
    def _names_unique(self) -> Self:
        names = [test.name for test in self.tests]
        idle = [key for key in ("stop", "seed", "stop_token_ids") if getattr(self.sampling, key)]
        if idle:
            raise ValueError(f"sampling.{idle[0]} cannot be set in a suite: answers end where the chat template says")
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tests named twice: {', '.join(sorted(doubled))}")
        return self
