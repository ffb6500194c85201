"""What a recipe says of preferences and right answers that are sampled while training: online DPO, rejection sampling.

No torch is imported here.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from luopan.errors import RecipeError
from luopan.objectives.config import PreferenceLossType, check_preference, loss_types
from luopan.recipe.preference_specs import known_names
from luopan.recipe.rl_specs import OnPolicySpec


class OnlineDpoSpec(OnPolicySpec):
    """Online and semi-online DPO: pairs of the policy's own answers, the better against the worse by reward."""

    kind: Literal["online_dpo"]
    num_generations: int = Field(default=4, ge=2, description="answers per prompt, of which a pair is made")
    choice: Literal["best_worst", "two"] = Field(
        default="best_worst", description="which two answers are compared: the best and the worst, or the first two"
    )
    min_margin: float = Field(default=0.0, ge=0, description="pairs whose rewards differ by less are left out")
    resample_rounds: int = Field(default=1, ge=0, description="extra draws that replace prompts without a difference")
    dead_generations: PositiveInt = Field(
        default=20, description="so many generations in a row without a single pair stop the run, with advice"
    )
    beta: float = Field(default=0.1, gt=0, description="higher stays closer to the reference")
    loss_type: PreferenceLossType | tuple[PreferenceLossType, ...] = Field(
        default="sigmoid", description="one loss, or several that are added up; those of pairs"
    )
    loss_weights: tuple[float, ...] | None = Field(default=None, description="of several losses; default: 1 each")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="share of pairs in the wrong order")
    simpo_gamma: float | None = Field(default=None, ge=0, description="simpo only: the margin asked for; default 0.5")
    nll_coef: float = Field(default=0.0, ge=0, description="weight of the chosen answer's own likelihood")

    @field_validator("loss_type", mode="before")
    @classmethod
    def _known_by_another_name(cls, value: Any) -> Any:
        return known_names(value)

    @model_validator(mode="after")
    def _loss_works(self) -> Self:
        names = loss_types(self.loss_type)
        if "kto" in names:
            raise ValueError("kto learns from single answers; pairs of the policy's own need another loss_type")
        if "simpo" in names and "beta" not in self.model_fields_set:
            raise ValueError("simpo needs a beta of its own: it weighs means per token, with 2 to 2.5 in its paper")
        if self.choice == "two" and self.num_generations > 2:
            raise ValueError("choice: two compares the first two answers; the others of num_generations are wasted")
        try:
            check_preference(
                self.loss_type,
                self.beta,
                self.label_smoothing,
                self.nll_coef,
                loss_weights=self.loss_weights,
                simpo_gamma=self.simpo_gamma,
            )
        except RecipeError as error:
            raise ValueError(error.message) from error
        return self


class RejectionSpec(OnPolicySpec):
    """Rejection sampling, in several rounds expert iteration: the model is fine-tuned on those of its answers that are
    right. A round is a generation: `num_iterations * steps_per_generation` updates."""

    kind: Literal["rejection"]
    num_generations: PositiveInt = Field(default=8, description="answers per prompt in a round")
    min_reward: float = Field(default=1.0, description="what an answer must earn to be kept")
    per_prompt: PositiveInt = Field(default=2, description="different answers kept of a prompt, at most")

    @property
    def rounds(self) -> int:
        """How often the policy is asked anew."""
        return self.max_steps // (self.num_iterations * self.steps_per_generation)

    @model_validator(mode="after")
    def _rounds_are_whole(self) -> Self:
        updates = self.num_iterations * self.steps_per_generation
        if self.max_steps % updates:
            raise ValueError(
                f"max_steps {self.max_steps} is no whole number of rounds of {updates} updates "
                "(num_iterations * steps_per_generation)"
            )
        if self.per_prompt > self.num_generations:
            raise ValueError(f"per_prompt {self.per_prompt} is more than num_generations {self.num_generations}")
        return self
