"""What a recipe says about a tokenizer. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PAD = "<|pad|>"
THINK_START = "<think>"
THINK_END = "</think>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PAD)
VISIBLE_TOKENS = (THINK_START, THINK_END, "/think", "/no_think")

BYTES = 256


class TokenizerConfig(BaseModel):
    """A byte-level BPE tokenizer to train.

    `vocab_size` counts everything: 256 bytes, special and added tokens, merges. It is a multiple of 128, because
    matrix multiplications over the vocabulary are slower at odd sizes on every accelerator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: Annotated[int, Field(ge=384, le=1 << 20)] = 2048
    min_frequency: Annotated[int, Field(ge=1)] = 2
    split_digits: bool = True
    max_token_length: Annotated[int, Field(ge=2)] | None = None
    extra_tokens: tuple[str, ...] = ()

    @field_validator("vocab_size")
    @classmethod
    def _multiple_of_128(cls, value: int) -> int:
        if value % 128:
            raise ValueError(
                f"{value} is not a multiple of 128; use {value // 128 * 128} or {value // 128 * 128 + 128}"
            )
        return value

    @field_validator("extra_tokens")
    @classmethod
    def _new_and_visible(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        taken = {*SPECIAL_TOKENS, *VISIBLE_TOKENS}
        for token in value:
            if not token.strip() or token in taken:
                raise ValueError(f"{token!r} is empty or taken already")
            taken.add(token)
        return value
