"""The smaller parts of stage specs: procedural texts, conversations, and the questions that a chat model is asked.

See `luopan.recipe.specs` for the stages that are made of them. No torch is imported here.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from luopan.generate.config import SamplingParams

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


class ChatSource(Spec):
    """Conversations: made by a skill generator, or read from the user's file. Exactly one of `skill` and `path`."""

    skill: str | None = Field(default=None, description="a procedural skill, or identity, talk, persona")
    path: str | None = Field(default=None, description="a .jsonl/.parquet file with a `messages` column")
    examples: PositiveInt | None = Field(default=None, description="how many; required for a skill")
    thinking: float = Field(default=0.0, ge=0, le=1, description="share of the examples with enable_thinking on")
    flaw_rate: float = Field(default=0.0, ge=0, le=1, description="share of replies with the flaw, as raw data has it")
    flaw: Literal["rude", "rambling"] = Field(default="rude", description="which flaw; see corpus.skills.pairs")
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict, description="options of the skill")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.skill is None) == (self.path is None):
            raise ValueError("give exactly one of skill and path")
        if self.skill is not None and self.examples is None:
            raise ValueError(f"examples is required for skill {self.skill!r}")
        if self.path is not None and (self.options or self.thinking or self.flaw_rate):
            raise ValueError("options, thinking and flaw_rate have no effect on a file: its rows say what they are")
        refuse_reserved(self.options, ("split", "seed", "n", "thinking"))
        if "flaw" in self.model_fields_set and not self.flaw_rate:
            raise ValueError("flaw has no effect with flaw_rate 0")
        return self

    @property
    def name(self) -> str:
        """What the mixture table calls this source."""
        return self.skill or str(self.path)


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
