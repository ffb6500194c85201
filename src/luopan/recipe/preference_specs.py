"""What a recipe says of preference optimisation.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.errors import RecipeError
from luopan.model.adapter_config import AdapterConfig
from luopan.objectives.config import check_preference
from luopan.recipe.epochs import MODEL_KINDS, EpochConfig
from luopan.recipe.parts import ChatSuite


class PreferenceSpec(EpochConfig):
    """Direct preference optimisation on pairs of a chosen and a rejected answer."""

    kind: Literal["preference"]
    model: str
    pairs: PositiveInt | None = Field(default=None, description="how many procedural pairs; exclusive with path")
    flaw: Literal["rude", "rambling"] = Field(default="rude", description="what the rejected answers have")
    path: str | None = Field(default=None, description="a .jsonl/.parquet file with messages, chosen, rejected")
    max_length: PositiveInt
    beta: float = Field(default=0.1, gt=0)
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    nll_coef: float = Field(default=0.0, ge=0, description="weight of the chosen answer's own likelihood")
    test_pairs: PositiveInt = 100
    flaw_cases: int = Field(default=200, ge=0, description="questions answered at temperature 1 to count the flaw")
    suite: ChatSuite = ChatSuite()
    adapter: AdapterConfig | None = Field(
        default=None, description="train a low-rank adapter; without it the model is its own reference"
    )
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and {"flaw", "flaw_cases"} & self.model_fields_set:
            raise ValueError("flaw and flaw_cases have no effect on a file of pairs")
        if (self.pairs is None) == (self.path is None):
            raise ValueError("give exactly one of pairs and path")
        try:
            check_preference(self.loss_type, self.beta, self.label_smoothing, self.nll_coef)
        except RecipeError as error:
            raise ValueError(error.message) from error
        return self
