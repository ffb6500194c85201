"""What a recipe says of merging models.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.parts import Spec


class MergeSpec(Spec):
    """One model out of the weights of several of the same shape."""

    kind: Literal["merge"]
    models: tuple[str, ...] = Field(min_length=2)
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"models": MODEL_KINDS}
