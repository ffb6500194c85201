"""What a recipe says of preference optimisation.

No torch is imported here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from luopan.errors import RecipeError
from luopan.model.adapter_config import AdapterConfig
from luopan.objectives.config import PreferenceLossType, check_preference, loss_types, needs_reference
from luopan.recipe.epochs import MODEL_KINDS, EpochConfig
from luopan.recipe.parts import ChatSuite, RowSource

ELSEWHERE = {
    "dpo": "sigmoid",
    "cdpo": "sigmoid, with label_smoothing,",
    "rdpo": "robust",
    "apo": "apo_zero (or apo_down)",
    "exo": "exo_pair",
    "nca": "nca_pair",
    "sppo": "sppo_hard",
}
"""Losses by the names of their papers."""


def known_names(value: Any) -> Any:
    """One loss or several as written; ValueError for a name that other libraries have for one of ours."""
    for name in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []:
        if isinstance(name, str) and name in ELSEWHERE:
            raise ValueError(f"{name} is called {ELSEWHERE[name]} here, as in TRL")
    return value


"""Losses by the names of their papers."""


class PreferenceSpec(EpochConfig):
    """Preference optimisation: DPO and its relatives on pairs of answers, KTO on single ones."""

    kind: Literal["preference"]
    model: str
    reference: str | None = Field(default=None, description="the stage of the reference model; default: the input")
    pairs: PositiveInt | None = Field(default=None, description="how many procedural pairs; exclusive with data")
    flaw: Literal["rude", "rambling"] = Field(default="rude", description="what the rejected answers have")
    data: tuple[RowSource, ...] = Field(default=(), description="the user's pairs; for kto also answers with a label")
    max_length: PositiveInt = Field(description="tokens of a prompt with one answer")
    beta: float = Field(default=0.1, gt=0, description="higher stays closer to the reference")
    loss_type: PreferenceLossType | tuple[PreferenceLossType, ...] = Field(
        default="sigmoid", description="one loss, or several that are added up"
    )
    loss_weights: tuple[float, ...] | None = Field(default=None, description="of several losses; default: 1 each")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="share of pairs in the wrong order")
    simpo_gamma: float | None = Field(default=None, ge=0, description="simpo only: the margin asked for; default 0.5")
    desirable_weight: float = Field(default=1.0, gt=0, description="kto only")
    undesirable_weight: float = Field(default=1.0, gt=0, description="kto only")
    nll_coef: float = Field(default=0.0, ge=0, description="weight of the chosen answer's own likelihood")
    share_prompts: bool = Field(default=True, description="the prompt of a pair is computed once")
    test_pairs: PositiveInt = 100
    flaw_cases: int = Field(default=200, ge=0, description="questions answered at temperature 1 to count the flaw")
    suite: ChatSuite = ChatSuite()
    adapter: AdapterConfig | None = Field(
        default=None, description="train a low-rank adapter; without it the model is its own reference"
    )
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS, "reference": MODEL_KINDS}

    @field_validator("loss_type", mode="before")
    @classmethod
    def _known_by_another_name(cls, value: Any) -> Any:
        return known_names(value)

    @model_validator(mode="after")
    def _keys_work(self) -> Self:
        self.check_adapter(self.adapter)
        if self.data and {"flaw", "flaw_cases"} & self.model_fields_set:
            raise ValueError("flaw and flaw_cases have no effect on the user's pairs")
        if (self.pairs is None) == (not self.data):
            raise ValueError("give exactly one of pairs and data")
        if "simpo" in loss_types(self.loss_type) and "beta" not in self.model_fields_set:
            raise ValueError("simpo needs a beta of its own: it weighs means per token, with 2 to 2.5 in its paper")
        if self.reference is not None and not needs_reference(self.loss_type):
            raise ValueError(f"reference has no effect with loss_type {self.loss_type}")
        try:
            check_preference(
                self.loss_type,
                self.beta,
                self.label_smoothing,
                self.nll_coef,
                loss_weights=self.loss_weights,
                simpo_gamma=self.simpo_gamma,
                desirable_weight=self.desirable_weight,
                undesirable_weight=self.undesirable_weight,
            )
        except RecipeError as error:
            raise ValueError(error.message) from error
        return self

    @property
    def unpaired(self) -> bool:
        """Whether single answers are learnt from."""
        return "kto" in loss_types(self.loss_type)
