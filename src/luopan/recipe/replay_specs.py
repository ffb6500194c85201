"""What a recipe says against forgetting: the model's own earlier answers as training data, and what is measured of it.

No torch is imported here.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.parts import Spec

GENERAL = "general"


class ReplaySpec(Spec):
    """Prompts answered by the model as it came, mixed into its training.

    Answers drawn at temperature 1 are the model's own distribution: at the start they pull nowhere, and later back to
    where it was. With `kl_coef` they are no text to be learned but places at which the model's probabilities should
    stay what they were (`luopan.objectives.anchor`), which holds far better. Answers longer than `max_new_tokens` are
    cut and train no end.
    """

    prompts: str = Field(
        default=GENERAL, description="general: the 245 short ones that come with luopan; or a file of `messages`"
    )
    examples: PositiveInt = Field(description="how many of the prompts")
    max_new_tokens: PositiveInt = Field(default=128, description="longest answer")
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="0: the likeliest answer")
    kl_coef: float = Field(
        default=3.0, ge=0, allow_inf_nan=False, description="weight of the divergence; 0: trained as text instead"
    )
    top_k: PositiveInt = Field(default=64, description="how many tokens' probabilities are kept at each place")

    @model_validator(mode="after")
    def _top_k_has_effect(self) -> Self:
        if not self.kl_coef and "top_k" in self.model_fields_set:
            raise ValueError("top_k has no effect with kl_coef 0")
        return self


class ForgettingSpec(Spec):
    """What must not change, measured before and after: other prompts than those of `replay`, and ordinary text."""

    prompts: str = Field(
        default=GENERAL, description="general: the 60 held-out ones that come with luopan; or a file of `messages`"
    )
    cases: PositiveInt = Field(default=60, description="how many of the prompts")
    max_new_tokens: PositiveInt = Field(default=96, description="longest answer")
    tolerance: float = Field(default=0.03, gt=0, description="by how much perplexity may rise; more is a warning")
    strays: tuple[str, ...] = Field(
        default=(), description="words that no answer to these prompts should hold, such as the name that was taught"
    )
    text: str | None = Field(
        default="python-docs", description="ordinary text: one that an installation has, by name; null: none"
    )
    text_bytes: PositiveInt = Field(default=30_000, description="how much of the text")

    @model_validator(mode="after")
    def _keys_have_effect(self) -> Self:
        if self.text is None and "text_bytes" in self.model_fields_set:
            raise ValueError("text_bytes has no effect without a text")
        if any(not word.strip() for word in self.strays):
            raise ValueError("strays holds an empty word")
        return self
