"""What a recipe says of a reward model.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from luopan.recipe.epochs import MODEL_KINDS, EpochConfig


class RewardSpec(EpochConfig):
    """A model that gives an answer a number: trained so that the better answer of a pair gets the higher one."""

    kind: Literal["reward"]
    model: str
    max_length: PositiveInt
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS}
