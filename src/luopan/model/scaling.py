"""How rotary frequencies are rescaled for a longer context: the `rope_scaling` section of a model's configuration.

Apart from `config.py` for its length only. No torch here; what the numbers do is in `rotary.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RopeType = Literal["linear", "yarn", "llama3"]

# Which keys mean something to which kind of scaling; any other key that is set would have no effect.
_SCALING_KEYS: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "yarn": frozenset(
        {
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
    "llama3": frozenset({"original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
}
_SCALING_NEEDS: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "yarn": frozenset({"original_max_position_embeddings"}),
    "llama3": _SCALING_KEYS["llama3"],
}


class RopeScaling(BaseModel):
    """How rotary frequencies are rescaled for a longer context (`factor` times the pretrained one).

    linear: every frequency divided by `factor` (Chen et al. 2023). yarn: low frequencies divided, high ones kept, and
    attention sharpened (Peng et al. 2023, arXiv:2309.00071). llama3: the rule of Llama 3.1. A changed base (ABF,
    Xiong et al. 2023) is no scaling but another `rope_theta`; see `extend_context`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_type: RopeType
    factor: float = Field(ge=1.0)
    original_max_position_embeddings: int | None = Field(default=None, gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    mscale: float | None = Field(default=None, gt=0)
    mscale_all_dim: float | None = Field(default=None, gt=0)
    truncate: bool | None = None
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _refuse_keys_without_effect(self) -> RopeScaling:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None} - {"rope_type", "factor"}
        if idle := sorted(given - _SCALING_KEYS[self.rope_type]):
            raise ValueError(f"rope_type {self.rope_type!r} does not use {', '.join(idle)}")
        if absent := sorted(_SCALING_NEEDS[self.rope_type] - given):
            raise ValueError(f"rope_type {self.rope_type!r} needs {', '.join(absent)}")
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim only have an effect together")
        if self.attention_factor is not None and self.mscale is not None:
            raise ValueError("attention_factor overrides mscale and mscale_all_dim: give one or the other")
        if (self.beta_fast or 32.0) <= (self.beta_slow or 1.0):
            raise ValueError("beta_fast must be greater than beta_slow")
        if self.low_freq_factor and self.high_freq_factor and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be greater than low_freq_factor")
        return self
