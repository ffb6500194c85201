"""How tokens are drawn: the sampling parameters, with the names that Hugging Face and the OpenAI API use."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from luopan.errors import RecipeError


class SamplingParams(BaseModel):
    """Frozen; unknown keys, and filters that would have no effect, are errors.

    max_new_tokens: at most so many tokens are generated (fewer where the context ends: finish_reason "length").
    temperature: logits are divided by it; 0 is greedy. top_k, top_p, min_p: which tokens may be drawn, applied in this
    order after the temperature, as in transformers (None, 1 and 0 switch them off). repetition_penalty: divides the
    logit of every token that has occurred, prompt included (multiplies where it is negative); 1 is off.
    stop: strings that end the text, which are cut off. stop_token_ids: tokens that end it, besides the model's own.
    seed: the same seed gives the same tokens; None draws one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_one_stop_string(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("stop"), str):
            return {**data, "stop": (data["stop"],)}
        return data

    @model_validator(mode="after")
    def _check(self) -> SamplingParams:
        filters = {"top_k": self.top_k is not None, "top_p": self.top_p < 1, "min_p": self.min_p > 0}
        idle = [name for name, used in filters.items() if used]
        if self.greedy and idle:
            raise ValueError(f"{', '.join(idle)} has no effect at temperature 0: remove it or raise the temperature")
        if "" in self.stop:
            raise ValueError("an empty stop string would end every text at once")
        return self

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time and nothing is drawn."""
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether the distribution is the model's own at this temperature, so that a trainer can recompute it."""
        unfiltered = self.top_k is None and self.top_p == 1 and self.min_p == 0
        return not self.greedy and unfiltered and self.repetition_penalty == 1


def sampling_params(**values: Any) -> SamplingParams:
    """SamplingParams from keyword arguments; RecipeError in plain words instead of pydantic's ValidationError."""
    try:
        return SamplingParams(**values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'sampling'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        hint = f"the parameters are {', '.join(SamplingParams.model_fields)}"
        raise RecipeError("; ".join(problems), hint=hint) from error
