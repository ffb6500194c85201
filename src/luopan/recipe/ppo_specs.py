"""What a recipe says of PPO.

No torch is imported here.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.reward_parts import Curriculum
from luopan.recipe.rl_specs import OnPolicySpec


class PpoSpec(OnPolicySpec):
    """Proximal policy optimisation: a value model says what was to be expected, answers that beat it are made likelier,
    and moving away from the input model has a price."""

    kind: Literal["ppo"]
    prompts_per_step: PositiveInt = Field(default=64, description="prompts of a generation")
    num_generations: PositiveInt = Field(
        default=1, description="answers per prompt; their values make a group needless"
    )
    num_iterations: PositiveInt = Field(default=4, description="passes over a generation")
    value_from: Literal["reward_model", "policy"] | None = Field(
        default=None,
        description="whose weights the value model begins with; default: the reward model's, or else the policy's",
    )
    kl_coef: float = Field(default=0.05, ge=0, description="price of a nat away from the input model; 0: no reference")
    kl_estimator: Literal["k1", "k3"] = Field(default="k1", description="how the divergence at a token is estimated")
    kl_target: float | None = Field(
        default=None, gt=0, description="nats per answer that kl_coef adapts to; default: it is fixed"
    )
    kl_horizon: PositiveInt = Field(default=10_000, description="answers over which kl_coef moves by 20% at most")
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount of a reward per token that it comes later")
    lam: float = Field(default=0.95, ge=0, le=1, description="lambda of GAE: 1 trusts returns, 0 the value model")
    cliprange: float = Field(default=0.2, gt=0, lt=1, description="of the ratio of probabilities")
    cliprange_value: float | None = Field(
        default=0.2, gt=0, description="of a value's move in a generation; null: none"
    )
    vf_coef: float = Field(default=0.1, gt=0, description="weight of the value model's loss beside the policy's")
    curriculum: Curriculum | None = None
    whiten_rewards: bool = Field(default=False, description="rewards per token to variance 1 in each generation")

    @property
    def value_begins_with(self) -> Literal["reward_model", "policy"]:
        """`value_from`, or its default."""
        return self.value_from or ("policy" if self.reward_model is None else "reward_model")

    @model_validator(mode="after")
    def _ppo_works(self) -> Self:
        if self.value_from == "reward_model" and self.reward_model is None:
            raise ValueError("value_from: reward_model needs the key reward_model")
        if self.reward_model is not None and "truncation" not in self.model_fields_set:
            raise ValueError(
                "a reward model has not learned what an unfinished answer is worth: say truncation (keep, with a "
                "missing_eos_penalty; penalise, with a truncation_reward below its rewards; or mask)"
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("kl_target has no effect with kl_coef 0: it is what kl_coef begins with")
        if self.curriculum is not None and self.rewards and not any(one.kind == "verifier" for one in self.rewards):
            raise ValueError("curriculum counts what a verifier accepts, and rewards has no {kind: verifier}")
        for key, needed in (("kl_horizon", "kl_target"), ("kl_estimator", "kl_coef")):
            if key in self.model_fields_set and not getattr(self, needed):
                raise ValueError(f"{key} has no effect without {needed}")
        return self
