"""What a recipe says of rewards: a list of parts with weights, told apart by `kind`.

    rewards:
      - {kind: verifier}                                        # the task's own: right or wrong
      - {kind: format, weight: 0.1}                             # thinking as it was asked for
      - {kind: check, verifier: concise, weight: 0.2}           # any verifier, the same for all answers
      - {kind: reward_model, weight: 0.5}                       # the stage that the key reward_model names
      - {kind: judge, base_url: "http://host/v1", model: m}     # a language model that is asked

No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.parts import Spec

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class VerifierPart(Spec):
    """The verifier of each prompt's own task."""

    kind: Literal["verifier"]
    weight: float = 1.0
    required: bool = Field(default=True, description="an answer that it cannot grade leaves its group")
    seconds: float = Field(default=5.0, gt=0, description="for one answer; then it is ungraded")

    @property
    def name(self) -> str:
        return "verifier"


class FormatPart(Spec):
    """1 for a well-formed thinking block where one was asked for, or none where none was."""

    kind: Literal["format"]
    weight: float = 1.0

    @property
    def name(self) -> str:
        return "format"

    @property
    def required(self) -> bool:
        return False


class CheckPart(Spec):
    """A verifier with the same arguments for all answers: a language, a length, a style."""

    kind: Literal["check"]
    verifier: str = Field(description="name of a verifier, as in docs/evals.md")
    args: dict[str, Any] = Field(default_factory=dict, description="its arguments")
    name: str = Field(default="", pattern=f"{NAME}|^$", description="in the logs; default: the verifier's")
    weight: float = 1.0
    required: bool = Field(default=True, description="an answer that it cannot grade leaves its group")
    seconds: float = Field(default=5.0, gt=0, description="for one answer; then it is ungraded")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name") and isinstance(values.get("verifier"), str):
            return {**values, "name": values["verifier"]}
        return values


class RewardModelPart(Spec):
    """The reward model that the key `reward_model` names; it reads the conversation without the thinking."""

    kind: Literal["reward_model"]
    name: str = Field(default="reward_model", pattern=NAME, description="in the logs")
    weight: float = 1.0
    required: bool = Field(default=True, description="an answer that it cannot grade leaves its group")
    tokens_per_batch: PositiveInt = Field(default=16_384, description="read in one pass")


class JudgePart(Spec):
    """A language model behind an OpenAI-compatible endpoint, asked what an answer is worth (docs/rollouts.md)."""

    kind: Literal["judge"]
    base_url: str = Field(description="with the version: http://host:8000/v1")
    model: str = Field(description="as the server calls it")
    name: str = Field(default="judge", pattern=NAME, description="in the logs")
    weight: float = 1.0
    required: bool = Field(default=True, description="an answer that it cannot grade leaves its group")
    scale: str = Field(default="1-10", description="what it may say: two numbers, or words with the best first: yes/no")
    template: str | None = Field(default=None, description="the question as a Jinja text; default: a question of ours")
    max_tokens: PositiveInt = Field(default=512, description="of its reply")
    seed: int = Field(default=0, description="for the server, where it heeds one")
    extra: dict[str, Any] = Field(default_factory=dict, description="more fields of the request")
    api_key_env: str | None = Field(default=None, description="the environment variable that holds the key")
    timeout: float = Field(default=300.0, gt=0, description="seconds for one reply")
    patience: float = Field(default=600.0, ge=0, description="seconds without any reply, after which the run stops")
    concurrency: PositiveInt = Field(default=16, description="requests at once")


RewardPart = Annotated[VerifierPart | FormatPart | CheckPart | RewardModelPart | JudgePart, Field(discriminator="kind")]


class SoftOverlong(Spec):
    """DAPO's penalty for answers close to max_completion_length: it falls from 0 to -1 over the last tokens."""

    cache: PositiveInt = Field(description="over so many tokens before max_completion_length")
    weight: float = Field(default=1.0, gt=0, description="what the penalty is multiplied by")


def check_parts(parts: Sequence[RewardPart]) -> None:
    """ValueError for parts that cannot be told apart, or that say nothing together."""
    names = [part.name for part in parts]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"rewards has two parts named {doubled[0]!r}: give one of them another name")
    if parts and not any(part.weight for part in parts):
        raise ValueError("all parts of rewards have weight 0, so nothing is rewarded")


class Curriculum(Spec):
    """Draws favour prompts that are neither solved nor out of reach, by the running share of solved answers."""

    target: float = Field(default=0.5, gt=0, lt=1, description="the share at which a prompt is drawn most often")
    width: float = Field(default=0.25, gt=0, description="how far from it the weight of a prompt has fallen to 0.61")
    floor: float = Field(default=0.1, gt=0, le=1, description="least weight, beside 1 at the target")
    decay: float = Field(default=0.5, ge=0, lt=1, description="what is kept of the running share at each visit")
    starts_at: float = Field(default=0.5, ge=0, le=1, description="the share of a prompt that was not drawn yet")

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.floor == 1:
            raise ValueError("with floor 1 all prompts weigh the same: leave curriculum out")
        return self
