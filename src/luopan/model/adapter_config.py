"""What a recipe says of low-rank adapters; names and defaults as PEFT has them where it has them. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt


class AdapterConfig(BaseModel):
    """Low-rank changes to linear layers that are trained while the weights below them stay as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: PositiveInt = Field(default=16, description="rank of the change")
    lora_alpha: float = Field(default=32.0, gt=0, description="the change is scaled by lora_alpha / r")
    lora_dropout: NonNegativeFloat = Field(default=0.0, lt=1, description="on the input of the adapters, in training")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear", description="all-linear, or names or patterns (q_proj, layers.*.mlp.down_proj)"
    )
    use_rslora: bool = Field(default=False, description="scale by lora_alpha / sqrt(r) (arXiv:2312.03732)")
    use_dora: bool = Field(default=False, description="DoRA: the length of each output's weights is trained apart")
    modules_to_save: tuple[str, ...] = Field(
        default=(), description="trained in full beside the adapter: embed_tokens, lm_head, norm"
    )
    base: Literal["fp32", "int8", "nf4"] = Field(
        default="fp32", description="what the frozen weights are held in; nf4 is QLoRA (arXiv:2305.14314)"
    )
