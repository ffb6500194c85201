"""What a recipe says of the stages that learn from what the policy itself has said.

`OnPolicySpec` is what they have in common: tasks, sampling, how a generation of answers is cut into updates. No torch
is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.errors import RecipeError
from luopan.objectives.config import check_policy
from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.parts import ChatSuite, Scalar, Spec, refuse_reserved
from luopan.train.config import TrainConfig


class Task(Spec):
    """Prompts of one skill, rewarded by its own verifier."""

    skill: str
    weight: float = Field(default=1.0, gt=0)
    thinking: bool = True
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        refuse_reserved(self.options, ("split", "seed", "n", "thinking"))
        return self


class OnPolicySpec(TrainConfig):
    """Sampling and updates. A generation is sampled at once and used for `num_iterations * steps_per_generation`
    updates."""

    model: str
    tasks: tuple[Task, ...] = Field(min_length=1)
    prompts: PositiveInt = Field(default=2000, description="distinct training prompts to draw from")
    prompts_per_step: PositiveInt = Field(default=16, description="prompts of a generation")
    max_completion_length: PositiveInt = 64
    temperature: float = Field(default=1.0, gt=0)
    num_iterations: PositiveInt = Field(default=1, description="passes over a generation")
    steps_per_generation: PositiveInt = Field(default=1, description="updates in a pass, each on a share of it")
    max_length: PositiveInt = Field(default=256, description="tokens per packed row")
    # A group of equal rewards teaches nothing, so the first one that differs would look like a spike.
    spike_sigma: float | None = Field(default=None, gt=0, description="as elsewhere, but not unless asked for")
    test_cases: int = Field(default=100, ge=0, description="held-out prompts per task, answered as in training")
    suite: ChatSuite = ChatSuite()
    seed: int | None = Field(default=None, description="default: made of the recipe's seed and the stage's name")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS}

    @property
    def interchangeable(self) -> tuple[str, ...]:
        """Nothing: accumulation alone cuts the rollouts, and the batch size has no effect."""
        return ()

    @property
    def test_samples(self) -> int:
        """Answers to each held-out prompt."""
        return 8

    @model_validator(mode="after")
    def _batch_keys_work(self) -> Self:
        if "per_device_train_batch_size" in self.model_fields_set:
            raise ValueError("per_device_train_batch_size has no effect: prompts_per_step and num_generations say it")
        if self.batch_warmup_steps is not None:
            raise ValueError("batch_warmup_steps has no effect: prompts_per_step says how much a step reads")
        if self.critical_batch_probe:
            raise ValueError("critical_batch_probe compares micro-batches of one size, which rollouts do not make")
        if self.parallel != "replicas":
            raise ValueError(f"parallel: {self.parallel} cannot sample answers; this stage needs parallel: replicas")
        return self


class GrpoSpec(OnPolicySpec):
    """Group-relative policy optimisation with verifiable rewards."""

    kind: Literal["grpo"]
    num_generations: int = Field(default=8, ge=2, description="answers per prompt: the group")
    epsilon: float = Field(default=0.2, gt=0, description="clip; with one update per generation it seldom bites")
    epsilon_high: float | None = Field(default=None, gt=0)
    beta: float = Field(default=0.0, ge=0, description="weight of the KL to the reference; 0 keeps none in memory")
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    format_reward: float = Field(default=0.0, ge=0, description="for well-formed thinking, beside the verifier's")
    resample_rounds: int = Field(default=1, ge=0, description="extra draws that replace groups of equal rewards")

    @property
    def test_samples(self) -> int:
        """As many as in training."""
        return self.num_generations

    @model_validator(mode="after")
    def _knobs_work(self) -> Self:
        if self.loss_type == "bnpo":
            raise ValueError("bnpo is the same as dapo here: losses are divided over the whole step; use dapo")
        try:
            check_policy(
                self.loss_type,
                epsilon=self.epsilon,
                epsilon_high=self.epsilon_high,
                beta=self.beta,
                max_completion_length=self.max_completion_length,
            )
        except RecipeError as error:
            raise ValueError(error.message) from error
        return self
