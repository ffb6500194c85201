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
from luopan.recipe.parts import ChatSuite
from luopan.recipe.reward_parts import RewardModelPart, RewardPart, SoftOverlong, VerifierPart, check_parts
from luopan.recipe.tasks import Task
from luopan.train.config import TrainConfig

__all__ = ["GrpoSpec", "OnPolicySpec", "Task"]


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
    too_long: Literal["error", "set_aside"] = Field(
        default="error", description="what becomes of prompts that leave no room for an answer"
    )
    rewards: tuple[RewardPart, ...] = Field(
        default=(), description="what is rewarded; default: the verifier of the task, and the form for format_reward"
    )
    reward_model: str | None = Field(default=None, description="the stage that a part of kind reward_model asks")
    format_reward: float = Field(default=0.0, ge=0, description="for well-formed thinking, beside the verifier's")
    truncation: Literal["mask", "penalise", "keep"] = Field(
        default="penalise", description="answers that do not end: left out, given truncation_reward, or graded"
    )
    truncation_reward: float = Field(default=0.0, description="of an answer that does not end, with penalise")
    missing_eos_penalty: float = Field(
        default=0.0, ge=0, description="taken from an answer that does not end, with keep and a reward model"
    )
    soft_overlong: SoftOverlong | None = None
    eval_rollouts_steps: PositiveInt | None = Field(
        default=None, description="every so many updates the held-out prompts are answered; default: before and after"
    )
    # A group of equal rewards teaches nothing, so the first one that differs would look like a spike.
    spike_sigma: float | None = Field(default=None, gt=0, description="as elsewhere, but not unless asked for")
    test_cases: int = Field(default=100, ge=0, description="held-out prompts per task, answered as in training")
    suite: ChatSuite = ChatSuite()
    seed: int | None = Field(default=None, description="default: made of the recipe's seed and the stage's name")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS, "reward_model": ("reward", "import")}

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

    @model_validator(mode="after")
    def _rewards_work(self) -> Self:
        check_parts(self.rewards)
        if self.rewards and "format_reward" in self.model_fields_set:
            part = f"{{kind: format, weight: {self.format_reward:g}}}"
            raise ValueError(f"format_reward has no effect beside rewards: put {part} there")
        models = any(isinstance(part, RewardModelPart) for part in self.rewards)
        if models != (self.reward_model is not None):
            raise ValueError("reward_model and a part {kind: reward_model} in rewards need each other")
        by_rule = not self.rewards or any(isinstance(part, VerifierPart) for part in self.rewards)
        silent = next((task.label for task in self.tasks if not task.graded), None)
        if by_rule and silent is not None:
            raise ValueError(f"task {silent!r} has no verifier: name one, or give rewards without {{kind: verifier}}")
        self._check_endings(models)
        return self

    def _check_endings(self, models: bool) -> None:
        """ValueError for what answers that do not end, or nearly do not, cannot be given."""
        if "truncation_reward" in self.model_fields_set and self.truncation != "penalise":
            raise ValueError(f"truncation_reward has no effect with truncation: {self.truncation}")
        if self.missing_eos_penalty and (self.truncation != "keep" or not models):
            raise ValueError("missing_eos_penalty needs truncation: keep and a part {kind: reward_model}")
        if self.soft_overlong is not None and self.soft_overlong.cache >= self.max_completion_length:
            raise ValueError(f"soft_overlong.cache must be below max_completion_length {self.max_completion_length}")
        if self.eval_rollouts_steps is not None and not self.test_cases:
            raise ValueError("eval_rollouts_steps has no effect with test_cases 0")


class GrpoSpec(OnPolicySpec):
    """Group-relative policy optimisation with verifiable rewards."""

    kind: Literal["grpo"]
    num_generations: int = Field(default=8, ge=2, description="answers per prompt: the group")
    epsilon: float = Field(default=0.2, gt=0, description="clip; with one update per generation it seldom bites")
    epsilon_high: float | None = Field(default=None, gt=0)
    beta: float = Field(default=0.0, ge=0, description="weight of the KL to the reference; 0 keeps none in memory")
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
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
