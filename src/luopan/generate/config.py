"""How tokens are drawn: the sampling parameters, with the names that Hugging Face and the OpenAI API use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from luopan.errors import RecipeError


class SamplingParams(BaseModel):
    """Frozen; unknown keys, and filters that would have no effect, are errors.

    max_new_tokens: at most so many tokens are generated (fewer where the context ends: finish_reason "length").
    temperature: logits are divided by it; 0 is greedy. top_k, top_p, min_p: which tokens may be drawn, applied in this
    order after the temperature, as in transformers (None, 1 and 0 switch them off); last typical_p, which keeps the
    tokens whose surprise is nearest to the expected one (Meister et al. 2022, arXiv:2202.00666). repetition_penalty:
    divides the logit of every token that has occurred, prompt included (multiplies where it is negative); 1 is off.
    frequency_penalty, presence_penalty: taken off the logit of what has been generated, the first as often as it was
    (as in the OpenAI API). logit_bias: added to the logits of these tokens, {token id: -100 to 100}, before all else.
    bad_words: texts, and bad_words_ids: tokens in a row, that are not completed. min_new_tokens: before so many, no
    token that ends the text is chosen.
    stop: strings that end the text, which are cut off. stop_token_ids: tokens that end it, besides the model's own.
    seed: the same seed gives the same tokens; None draws one.
    top_logprobs: for each token, so many of the likeliest with their log-probabilities are reported.
    json_schema, regex, grammar: what the answer must be, one of them: the JSON text of a schema ("{}" for any JSON), an
    expression that matches all of it, or a Lark grammar as llguidance reads it. Only tokens that keep to it are drawn.
    thinking_budget: at most so many tokens of thinking, then it is closed by force.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    typical_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]], ...] = ()
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = ()
    min_new_tokens: int = Field(default=0, ge=0)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    top_logprobs: int = Field(default=0, ge=0, le=20)
    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    thinking_budget: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _accept_usual_forms(cls, data: Any) -> Any:
        """One stop string by itself; biases as an object, whose keys are texts in JSON; a schema that is no text."""
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("stop"), str):
            data = {**data, "stop": (data["stop"],)}
        if isinstance(data.get("logit_bias"), Mapping):
            data = {**data, "logit_bias": tuple(data["logit_bias"].items())}
        if isinstance(data.get("json_schema"), Mapping | bool):
            data = {**data, "json_schema": json.dumps(data["json_schema"], ensure_ascii=False)}
        return data

    @model_validator(mode="after")
    def _check(self) -> SamplingParams:
        idle = [name for name, used in self._filters.items() if used]
        if self.greedy and idle:
            raise ValueError(f"{', '.join(idle)} has no effect at temperature 0: remove it or raise the temperature")
        if "" in self.stop:
            raise ValueError("an empty stop string would end every text at once")
        if "" in self.bad_words or () in self.bad_words_ids:
            raise ValueError("an empty bad word would forbid every text")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}")
        if len(forms := self._forms) > 1:
            raise ValueError(f"{' and '.join(forms)} each say what the answer must be: give one")
        return self

    @property
    def _filters(self) -> dict[str, bool]:
        """Which filters of a distribution are used."""
        return {
            "top_k": self.top_k is not None,
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "typical_p": self.typical_p < 1,
        }

    @property
    def _forms(self) -> list[str]:
        return [name for name in ("json_schema", "regex", "grammar") if getattr(self, name) is not None]

    @property
    def constrained(self) -> bool:
        """Whether what may come next depends on the text so far: a `generate.constraint` is needed, and a tokenizer."""
        return bool(self._forms) or self.thinking_budget is not None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time and nothing is drawn."""
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether the distribution is the model's own at this temperature, so that a trainer can recompute it."""
        moved = self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty or self.logit_bias
        barred = self.bad_words or self.bad_words_ids or self.min_new_tokens
        return not (self.greedy or any(self._filters.values()) or moved or barred or self.constrained)


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
