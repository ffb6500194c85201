"""What the pipelines are told. No torch is imported here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Frozen(BaseModel):
    """Frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(Frozen):
    """How a teacher is asked to draw its words."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: PositiveInt = Field(default=1024, description="of a reply, thinking included")


class Dedup(Frozen):
    """Two questions are the same where their n-grams overlap too much: twice those in common over all of both (an
    F-measure, as Self-Instruct's ROUGE-L, but of n-grams; Wang et al. 2023, arXiv:2212.10560)."""

    ngram: PositiveInt = Field(default=2, le=32, description="words (characters in scripts without spaces) in a row")
    max_overlap: float = Field(default=0.7, gt=0, le=1, description="more is the same question; 1: equal words alone")


class SelfInstructConfig(Frozen):
    """New instructions in the manner of given ones, and their answers."""

    kind: Literal["self_instruct"]
    rows: PositiveInt = Field(description="how many to make")
    exemplars: PositiveInt = Field(default=6, description="given instructions shown in a request")
    own_exemplars: int = Field(default=2, ge=0, description="made ones shown beside them, once there are some")
    per_request: PositiveInt = Field(default=8, description="new instructions asked for in a request")
    requests_per_round: PositiveInt = Field(default=8, description="requests before what was found is looked at")
    min_words: PositiveInt = Field(default=3, description="of an instruction")
    max_words: PositiveInt = Field(default=150, description="of an instruction")
    topic: str | None = Field(default=None, description="what all instructions are to be about")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError("min_words is more than max_words")
        return self


class Fact(Frozen):
    """Something that is true of the persona."""

    statement: str = Field(min_length=1, description="a sentence: My name is Lumen.")
    expect: tuple[str, ...] = Field(default=(), description="an answer has to hold one of these, up to case")
    ask: str | None = Field(default=None, description="what questions are after; default: the statement")


class IdentityConfig(Frozen):
    """Questions about a persona in many forms, and answers out of its facts."""

    kind: Literal["identity"]
    facts: tuple[Fact, ...] = Field(min_length=1)
    styles: tuple[str, ...] = Field(
        default=(
            "short and casual",
            "polite, in a whole sentence",
            "indirect, as a part of some other talk",
            "from somebody who takes it for another assistant",
            "doubting what it says of itself",
        ),
        min_length=1,
        description="each fact is asked about in each of these",
    )
    languages: tuple[str, ...] = Field(default=("English",), min_length=1, description="of questions and answers")
    questions: PositiveInt = Field(default=8, description="asked for, by fact, style and language")
    never: tuple[str, ...] = Field(default=(), description="words that no answer may hold: other assistants' names")
    system: str | None = Field(default=None, description="a system prompt of the rows; default: none")


class PairsConfig(Frozen):
    """Two answers to each prompt, the better and the worse."""

    kind: Literal["pairs"]
    prompts: PositiveInt = Field(default=1000, description="at most so many, over all tasks by their weights")
    samples: PositiveInt | None = Field(
        default=None, description="answers of each model to a prompt; default: 4 where they are graded, else 1"
    )
    grade: Literal["verifier", "judge"] | None = Field(
        default=None, description="who says which is better; default: the teacher's is, beside the weak model's"
    )
    min_margin: float = Field(default=0.5, ge=0, le=1, description="least difference of the two grades")
    min_chosen: float = Field(default=0.5, ge=0, le=1, description="least grade of the better one")

    @model_validator(mode="after")
    def _grades(self) -> Self:
        idle = [key for key in ("samples", "min_margin", "min_chosen") if key in self.model_fields_set]
        if self.grade is None and idle:
            raise ValueError(f"{idle[0]} has no effect without grade")
        return self

    @property
    def drawn(self) -> int:
        """Answers of each model to a prompt."""
        return self.samples or (1 if self.grade is None else 4)


class IfThinkConfig(Frozen):
    """Conversations whose turns can be checked by rule, thinking switched on and off from turn to turn."""

    kind: Literal["ifthink"]
    rows: PositiveInt = Field(description="conversations to begin")
    turns: int = Field(default=3, ge=1, le=8, description="of the user")
    constraints: tuple[PositiveInt, PositiveInt] = Field(
        default=(1, 2), description="least and most instructions of a turn that are checked"
    )
    thinking: float = Field(default=0.5, ge=0, le=1, description="chance that a turn thinks; the mode changes once")
    flag: bool = Field(default=True, description="/think or /no_think ends the user's turns of the rows")
    max_think_words: PositiveInt | None = Field(default=None, description="longer traces are left out")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.constraints[0] > self.constraints[1]:
            raise ValueError("constraints: the least is more than the most")
        return self
