"""What a recipe says of synthetic data: who is asked, by which pipeline, and what is left out.

No torch is imported here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luopan.corpus.dedup_config import DecontaminateConfig
from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.parts import RowSource, Spec
from luopan.recipe.reward_parts import JudgePart
from luopan.recipe.sampler_spec import EndpointSpec
from luopan.recipe.tasks import Task
from luopan.synth.config import Dedup, IdentityConfig, IfThinkConfig, PairsConfig, Sampling, SelfInstructConfig


class SelfInstructSpec(SelfInstructConfig):
    """New instructions in the manner of given ones, and their answers."""

    seeds: tuple[RowSource, ...] = Field(
        min_length=1, description="rows with `instruction`, `prompt`, `question` or `messages`"
    )


class IdentitySpec(IdentityConfig):
    """Questions about a persona in many forms, and answers out of its facts."""


class PairsSpec(PairsConfig):
    """Two answers to each prompt, the better and the worse."""

    tasks: tuple[Task, ...] = Field(min_length=1, description="where the prompts come from, and how they are graded")
    judge: JudgePart | None = Field(default=None, description="for grade: judge")

    @model_validator(mode="after")
    def _can_be_graded(self) -> Self:
        if (self.judge is not None) != (self.grade == "judge"):
            raise ValueError("judge has no effect without grade: judge" if self.judge else "grade: judge needs judge")
        if self.grade == "verifier" and (ungraded := [task.label for task in self.tasks if not task.graded]):
            raise ValueError(f"the task {ungraded[0]} has no verifier, and grade is verifier")
        for task in self.tasks:
            if idle := [key for key in ("test_share", "test_data", "test_split") if getattr(task, key) is not None]:
                raise ValueError(f"{idle[0]} has no effect here: nothing is held out")
        return self


class IfThinkSpec(IfThinkConfig):
    """Conversations whose turns can be checked by rule, thinking switched on and off from turn to turn."""

    data: tuple[RowSource, ...] = Field(
        min_length=1, description="first questions, with `instruction_id_list` and `kwargs` of their own or without"
    )


Pipeline = Annotated[SelfInstructSpec | IdentitySpec | PairsSpec | IfThinkSpec, Field(discriminator="kind")]


class SynthesizeSpec(Spec):
    """Rows that language models write, checked, as `sft` and `preference` read them."""

    kind: Literal["synthesize"]
    teacher: str | None = Field(default=None, description="a stage whose model is asked; or teacher_endpoint")
    teacher_endpoint: EndpointSpec | None = Field(default=None, description="a server that is asked")
    weak: str | None = Field(default=None, description="pairs: a stage whose answers are rejected; or weak_endpoint")
    weak_endpoint: EndpointSpec | None = Field(default=None, description="pairs: the same behind a server")
    pipeline: Pipeline
    sampling: Sampling = Sampling()
    dedup: Dedup | None = Field(default=Dedup(), description="questions that are too alike are left out; null: none is")
    decontaminate: DecontaminateConfig | None = Field(
        default=None, description="rows that hold items of evaluation sets are left out"
    )
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"teacher": MODEL_KINDS, "weak": MODEL_KINDS}

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        if (self.teacher is None) == (self.teacher_endpoint is None):
            raise ValueError("give exactly one of teacher and teacher_endpoint")
        if self.weak is not None and self.weak_endpoint is not None:
            raise ValueError("give weak or weak_endpoint, not both")
        weak = self.weak is not None or self.weak_endpoint is not None
        if weak and not isinstance(self.pipeline, PairsSpec):
            raise ValueError(f"a weak model has no effect in the pipeline {self.pipeline.kind}: it is for pairs")
        if isinstance(self.pipeline, PairsSpec) and not weak:
            if self.pipeline.grade is None:
                raise ValueError("pairs need a weak model, or a grade: verifier or judge")
            if self.pipeline.drawn < 2:
                raise ValueError("samples 1 makes no pair without a weak model")
        return self
