"""What a recipe says about a tokenizer. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PAD = "<|pad|>"
THINK_START = "<think>"
THINK_END = "</think>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PAD)
VISIBLE_TOKENS = (THINK_START, THINK_END, "/think", "/no_think")

BYTES = 256
ROLES = ("system", "user", "assistant", "tool")

# What a tokenizer of ours cuts off before it looks for words. The beginning of a text, or what follows a control token:
# a chat header's line break. Then, where asked for, runs of white space, and groups of digits.
CHAT_HEADER = rf"\A(?:(?:{'|'.join(ROLES)})\n|\n)"
CODE_WHITE_SPACE = r"[\r\n]+|[ \t]{2,}"
LINE_BREAK = r"\n"
# Threes counted from the right, as numbers are written with commas: aligned groups learn arithmetic better than those
# counted from the left (Singh & Strouse 2024, arXiv:2402.14903). Of more than 33 digits the first are counted from the
# left, because looking ahead to the end of a number at every group would take time with the square of its length.
DIGITS_BY_THREE = r"\d{1,3}(?=(?:\d{3}){0,10}(?!\d))|\d{3}"
# How GPT-4's family cuts words, as it stands in the tokenizer files of Llama 3 (`% "{1,3}"`: digits by three from the
# left) and of Qwen (`% ""`: one by one).
GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
INNER_CUTS = frozenset({CODE_WHITE_SPACE, LINE_BREAK, DIGITS_BY_THREE})
RESERVED = "<|reserved_{}|>"


class TokenizerConfig(BaseModel):
    """A byte-level BPE tokenizer to train.

    `vocab_size` counts everything: 256 bytes, special, added and reserved tokens, merges. It is a multiple of 128,
    because matrix multiplications over the vocabulary are slower at odd sizes on every accelerator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: Annotated[int, Field(ge=384, le=1 << 20)] = 2048
    min_frequency: Annotated[int, Field(ge=1)] = 2
    split_digits: bool = Field(default=True, description="numbers are cut into digits, or groups of them")
    digit_group: Literal[1, 3] = Field(
        default=1, description="digits of a token: each alone, or in threes counted from the right"
    )
    whitespace: Literal["words", "lines", "code"] = Field(
        default="words",
        description="`words`: the last space goes with the next word; `lines`: so, and every line break is a token of "
        "its own, as llama.cpp can do it too; `code`: line breaks and runs of two or more spaces or tabs are tokens of "
        "their own, up to 16 spaces each one token",
    )
    max_token_length: Annotated[int, Field(ge=2)] | None = None
    extra_tokens: tuple[str, ...] = ()
    reserved_tokens: int = Field(
        default=0, ge=0, description="control tokens `<|reserved_0|>` … without a meaning yet, to be given one later"
    )

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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.digit_group != 1 and not self.split_digits:
            raise ValueError("digit_group has no effect with split_digits: false")
        if clash := sorted(set(self.reserved) & set(self.extra_tokens)):
            raise ValueError(f"{clash[0]!r} is among extra_tokens and reserved_tokens")
        fixed = BYTES + len(SPECIAL_TOKENS) + len(VISIBLE_TOKENS) + len(self.extra_tokens) + self.reserved_tokens
        if fixed > self.vocab_size:
            raise ValueError(f"bytes, extra and reserved tokens alone are {fixed}, vocab_size is {self.vocab_size}")
        return self

    @property
    def reserved(self) -> tuple[str, ...]:
        """The reserved tokens' texts."""
        return tuple(RESERVED.format(number) for number in range(self.reserved_tokens))


class SampleConfig(BaseModel):
    """What a tokenizer learns from, of a corpus of several sources."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_bytes: Annotated[int, Field(ge=1)] = Field(
        default=20_000_000, description="at most this much text is read, spread over all of it"
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        description="share of the sample per source; a source smaller than its share is read again; default: by size",
    )

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not sum(value.values()) > 0:
            raise ValueError("every weight is 0")
        return value
