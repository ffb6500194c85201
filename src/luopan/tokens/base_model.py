"""What a model needs before it can be fine-tuned for chat, and what to do where it is not there.

The questions to put to a base model: has it a chat template, a token to stop on that the template really writes, a
padding token that is another one, one row of the embedding for each token, one token for each control word? A model
that lacks one of these trains without complaint and then never stops, or is padded with the token it should stop on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError, ModelError
from luopan.tokens.chat import end_of_turn_id, stop_ids
from luopan.tokens.config import PAD

PADS = (PAD, "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<|end_of_text|>", "<unk>")
"""Tokens that may serve as padding, the usual ones first."""


@dataclass(frozen=True)
class BaseCheck:
    """One question, what was found, and what to do (empty: nothing)."""

    question: str
    found: str
    advice: str = ""


def choose_pad(tokenizer: PreTrainedTokenizerFast, wanted: str | None) -> str:
    """The padding token: the one that is wanted, the tokenizer's own, or a token that ends nothing.

    ModelError where the wanted one is no token or ends a turn, or none can be found.
    """
    stops = _stops(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if wanted is not None:
        if wanted not in vocabulary:
            hint = "Name a token that there is, or add it with add_tokens."
            raise ModelError(f"pad_token {wanted!r} is no token of the vocabulary", hint=hint)
        if vocabulary[wanted] in stops:
            hint = "Others who train with this model would mask the stop token away: name another token."
            raise ModelError(f"pad_token {wanted!r} is the token that ends a turn", hint=hint)
        return wanted
    own = tokenizer.pad_token_id
    if own is not None and own not in stops:
        return str(tokenizer.pad_token)
    spare = [token for token in PADS if token in vocabulary and vocabulary[token] not in stops]
    if not spare:
        hint = f"Set add_tokens: ['{PAD}'] and pad_token: '{PAD}'."
        raise ModelError("the tokenizer has no padding token that is not its stop token", hint=hint)
    return spare[0]


def check_base(tokenizer: PreTrainedTokenizerFast, rows: int, source: Path | None = None) -> list[BaseCheck]:
    """The questions of this module; `rows` are those of the embedding, `source` the folder the model came from."""
    checks = [_template(tokenizer)]
    stops = _stops(tokenizer)
    names = [str(tokenizer.convert_ids_to_tokens(i)) for i in stops]
    advice = "" if stops else "Give the tokenizer an eos_token, or set chat_template."
    checks.append(BaseCheck("stop tokens", ", ".join(names) or "none", advice))
    if source is not None and (missing := _not_announced(tokenizer, source)):
        found = f"generation_config.json does not stop on {missing}"
        checks.append(BaseCheck("do others stop there", found, "The copy made here says so."))
    pad = tokenizer.pad_token_id
    same = pad is not None and pad in stops
    advice = "Padding hides the stop token from trainers that mask by token: set pad_token." if same else ""
    checks.append(BaseCheck("padding token", f"{tokenizer.pad_token}{', which ends a turn' if same else ''}", advice))
    size = len(tokenizer)
    advice = "" if size <= rows else "The embedding has no row for some tokens: add them with add_tokens."
    checks.append(BaseCheck("tokens / rows of the embedding", f"{size:,} / {rows:,}", advice))
    return checks


def _template(tokenizer: PreTrainedTokenizerFast) -> BaseCheck:
    if not tokenizer.chat_template:
        return BaseCheck("chat template", "none", "Set chat_template: chatml (or another; luopan template list).")
    try:
        end_of_turn_id(tokenizer)
    except LuopanError as error:
        return BaseCheck(
            "chat template", error.message, "luopan template lint says more; set chat_template to replace it."
        )
    marked = "marks what is trained" if "generation" in str(tokenizer.chat_template) else "its own"
    return BaseCheck("chat template", marked)


def _stops(tokenizer: PreTrainedTokenizerFast) -> Sequence[int]:
    try:
        return stop_ids(tokenizer)
    except LuopanError:
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _not_announced(tokenizer: PreTrainedTokenizerFast, source: Path) -> str:
    """The template's stop token where the source's generation configuration does not name it, "" else."""
    if not tokenizer.chat_template:
        return ""
    with suppress(OSError, ValueError, LuopanError):
        said = json.loads((source / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
        announced = said if isinstance(said, list) else [said]
        turn_end = end_of_turn_id(tokenizer)
        return "" if turn_end in announced else str(tokenizer.convert_ids_to_tokens(turn_end))
    return ""
