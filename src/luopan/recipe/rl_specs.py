"""What a recipe says of the stages that learn from what the policy itself has said.

`OnPolicySpec` is what they have in common: tasks, sampling, how a generation of answers is cut into updates. No torch
is imported here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.errors import RecipeError
from luopan.objectives.config import (
    Advantage,
    AdvantageScale,
    KlEstimator,
    KlPlace,
    PolicyLossType,
    RatioLevel,
    check_policy,
)
from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.parts import ChatSuite
from luopan.recipe.reward_parts import Curriculum, RewardModelPart, RewardPart, SoftOverlong, VerifierPart, check_parts
from luopan.recipe.sampler_spec import OwnSampler, SamplerSpec
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
    sampler: SamplerSpec = Field(
        default=OwnSampler(kind="engine"), description="who samples: the own engine, or a server (docs/rollouts.md)"
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
        if self.eval_rollouts_steps is not None and self.eval_rollouts_steps >= self.max_steps:
            raise ValueError(
                f"eval_rollouts_steps {self.eval_rollouts_steps} has no effect with max_steps {self.max_steps}: "
                "held-out prompts are answered before and after anyway"
            )
        answers = self.prompts_per_step * getattr(self, "num_generations", 1)
        if self.steps_per_generation > answers:
            raise ValueError(
                f"steps_per_generation {self.steps_per_generation} cannot each have a share of {answers} answers"
            )


class GrpoSpec(OnPolicySpec):
    """Group-relative policy optimisation with verifiable rewards."""

    kind: Literal["grpo"]
    num_generations: PositiveInt = Field(default=8, description="answers per prompt: the group")
    advantage: Advantage = Field(default="group", description="what an answer is compared with")
    scale_rewards: AdvantageScale = Field(default="group", description="what divides the distance from the group")
    loss_type: PolicyLossType = "dapo"
    importance_sampling_level: RatioLevel = Field(default="token", description="sequence: GSPO")
    epsilon: float | None = Field(default=None, gt=0, description="clip below; 0.2 where the loss has one")
    epsilon_high: float | None = Field(default=None, gt=0, description="clip above, epsilon if not set; cispo: the cap")
    delta: float | None = Field(default=None, gt=0, description="bound on the ratio of answers that were bad")
    beta: float = Field(default=0.0, ge=0, description="weight of the KL to the reference; 0 keeps none in memory")
    kl_in: KlPlace = Field(default="loss", description="where the KL is taken into account")
    kl_estimator: KlEstimator | None = Field(default=None, description="k3 in the loss, k1 in the reward")
    use_bias_correction_kl: bool | None = Field(
        default=None, description="weigh the KL with the ratio; as the estimator needs it"
    )
    policy_lag: int = Field(default=0, ge=0, description="updates that the weights that sample may be behind")
    importance_cap: float | None = Field(
        default=None, ge=1, description="largest weight that puts answers of older weights or another engine right"
    )
    resample_rounds: int = Field(default=1, ge=0, description="extra draws that replace groups of equal rewards")
    curriculum: Curriculum | None = None
    dead_generations: PositiveInt = Field(
        default=20, description="generations in a row that teach nothing, after which the run stops"
    )

    @property
    def test_samples(self) -> int:
        """As many as in training."""
        return self.num_generations

    @property
    def divergence(self) -> KlEstimator:
        """The estimate of the KL."""
        return self.kl_estimator or ("k1" if self.kl_in == "reward" else "k3")

    @property
    def loss_knobs(self) -> dict[str, Any]:
        """For `objectives.policy.grpo`."""
        knobs: dict[str, Any] = {
            "loss_type": self.loss_type,
            "epsilon": self.epsilon,
            "epsilon_high": self.epsilon_high,
            "delta": self.delta,
            "importance_sampling_level": self.importance_sampling_level,
            "max_completion_length": self.max_completion_length if self.loss_type == "dr_grpo" else None,
        }
        if self.beta and self.kl_in == "loss":
            knobs |= {
                "beta": self.beta,
                "kl_estimator": self.divergence,
                "use_bias_correction_kl": self.use_bias_correction_kl,
            }
        return knobs

    @property
    def _in_step(self) -> bool:
        """Whether the policy of now is what samples."""
        return self.sampler.kind == "engine" and not self.policy_lag

    @property
    def _ratio_is_one(self) -> bool:
        """Whether the loss's ratio can be nothing else. With an importance_cap the old policy is the trainer's own."""
        one = self.num_iterations * self.steps_per_generation == 1
        return one and (self._in_step or self.importance_cap is not None)

    @model_validator(mode="after")
    def _loss_works(self) -> Self:
        if self.curriculum is not None and self.rewards and not any(one.kind == "verifier" for one in self.rewards):
            raise ValueError("curriculum counts what a verifier accepts, and rewards has no {kind: verifier}")
        if self.loss_type == "bnpo":
            raise ValueError("bnpo is the same as dapo here: losses are divided over the whole step; use dapo")
        try:
            check_policy(**self.loss_knobs)
        except RecipeError as error:
            raise ValueError(error.message) from error
        if self._ratio_is_one:
            why = "has no effect with one update per generation, where the policy is the old one"
            self._refuse(("epsilon", "epsilon_high", "delta", "importance_sampling_level"), why)
            if self.loss_type == "cispo":
                raise ValueError("cispo with one update per generation is dapo; set num_iterations or use dapo")
        return self

    @model_validator(mode="after")
    def _lag_works(self) -> Self:
        updates = self.num_iterations * self.steps_per_generation
        if 0 < self.policy_lag < updates:
            raise ValueError(f"policy_lag {self.policy_lag} has no effect: a generation is used for {updates} updates")
        if self.importance_cap is not None and self._in_step and self.precision == "fp32":
            raise ValueError("importance_cap has no effect with policy_lag 0 in fp32, where every weight is 1")
        return self

    @model_validator(mode="after")
    def _credit_works(self) -> Self:
        if self.advantage != "group":
            self._refuse(("scale_rewards",), f"has no effect with advantage: {self.advantage}, which says it")
        if self.advantage == "reinforce_pp":
            self._refuse(("resample_rounds",), "has no effect with advantage: reinforce_pp, to which no group is dead")
            if self.loss_type == "rloo":
                raise ValueError("reinforce_pp credits each token, and loss_type rloo takes an answer for one action")
        elif self.num_generations < 2:
            raise ValueError(f"num_generations: 1 makes no group to compare with, as advantage: {self.advantage} does")
        if not self.beta:
            self._refuse(("kl_in", "kl_estimator", "use_bias_correction_kl"), "has no effect with beta 0")
        if self.kl_in == "reward":
            self._refuse(("use_bias_correction_kl",), "has no effect with kl_in: reward, which has no gradient")
        return self

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        for name in names:
            if name in self.model_fields_set:
                raise ValueError(f"{name} {why}; remove it")
