"""A tokenizer as a GGUF file holds it: tokens with their kinds, merges, the name of the cutting rule, special tokens.

Byte-level BPE only, which is what our own tokenizers are and those of Llama 3, Qwen, SmolLM. What llama.cpp would do
differently is an error that names it (`gguf_cuts.py`), or, where it touches few texts and nothing can be done about
it, a note: tokens that count only as whole words, white space taken along by a token, Unicode normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError, ModelError
from luopan.tokens.chat import stop_ids
from luopan.tokens.gguf_cuts import Cuts, find_cuts, pairs
from luopan.tokens.tokenizer import plain_backend

# Kinds of tokens, as `gguf.TokenType` numbers them; here so that a check needs no package.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer part of a GGUF file. `special` maps bos, eos, eot, unk, pad to ids; `notes` are for the reader."""

    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    stops: list[int]
    notes: list[str]


def vocabulary(tokenizer: PreTrainedTokenizerFast, size: int, *, inexact: bool = False) -> Vocabulary:
    """The tokenizer of a model with `size` rows in its embedding.

    `inexact` takes the nearest rule that llama.cpp has where none cuts alike; the notes say what differs. Raises
    ModelError for a tokenizer that llama.cpp cannot have, or that has more tokens than the model rows.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    _check_model(model)
    if len(tokenizer) > size:
        raise ModelError(f"the tokenizer has {len(tokenizer)} tokens and the model an embedding of {size}")
    cuts = find_cuts(state["pre_tokenizer"], model)
    if cuts.name is None or (cuts.obstacle and not inexact):
        raise _refusal(cuts)
    tokens, kinds = _tokens(tokenizer, model["vocab"], state["added_tokens"], size)
    merges = [f"{left} {right}" for at, (left, right) in enumerate(pairs(model)) if at not in cuts.dropped]
    add_bos, add_eos = _frame(tokenizer)
    stops = stop_ids(tokenizer) if tokenizer.eos_token_id is not None else []
    made = Vocabulary(
        pre=cuts.name,
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        special=_special(tokenizer, stops),
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        stops=stops,
        notes=[],
    )
    return replace(made, notes=[*_cut_notes(cuts), *_notes(state, made)])


def plain_vocabulary_problem(tokenizer: PreTrainedTokenizerFast, size: int) -> LuopanError | None:
    """What keeps the tokenizer from being written, or None."""
    try:
        vocabulary(tokenizer, size)
    except LuopanError as error:
        return error
    return None


def as_llama_cuts(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The tokens that the nearest rule gives a text without control tokens, to measure what `inexact` changes.

    The merges that are left out are left out of the same tokenizer; what else differs is in the notes.
    """
    from tokenizers import Tokenizer

    state = json.loads(plain_backend(tokenizer).to_str())
    dropped = find_cuts(state["pre_tokenizer"], state["model"]).dropped
    state["model"]["merges"] = [merge for at, merge in enumerate(state["model"]["merges"]) if at not in dropped]
    return list(Tokenizer.from_str(json.dumps(state)).encode(text, add_special_tokens=False).ids)


def _check_model(model: Mapping[str, Any]) -> None:
    odd = [key for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(key)]
    if model["type"] != "BPE" or model.get("byte_fallback") or odd:
        kind = f"{model['type']}{' with byte fallback' if model.get('byte_fallback') else ''}"
        raise ModelError(
            f"the tokenizer is a {kind}{f' with {odd[0]}' if odd else ''}; only byte-level BPE can be written as GGUF",
            hint="llama.cpp's own converter, convert_hf_to_gguf.py, knows the kinds of well-known models.",
        )


def _refusal(cuts: Cuts) -> ModelError:
    """The error for a tokenizer that llama.cpp has no rule for."""
    hint = f"{cuts.hint}." if cuts.hint else None
    if cuts.name is not None:
        hint = f"{cuts.hint}; or --inexact-tokenizer cuts every line break off, unlike training."
    return ModelError(f"llama.cpp cannot cut text as this tokenizer does: {cuts.obstacle}", hint=hint)


def _tokens(
    tokenizer: PreTrainedTokenizerFast, vocab: Mapping[str, int], added: list[dict[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    """Texts and kinds by id; rows of the embedding that no token has are unused ones."""
    tokens, kinds = [f"<|unused_{at}|>" for at in range(size)], [UNUSED] * size
    for text, at in vocab.items():
        tokens[at], kinds[at] = text, NORMAL
    special = set(tokenizer.all_special_tokens)
    for token in added:
        at, text = token["id"], token["content"]
        tokens[at], kinds[at] = text, CONTROL if token["special"] or text in special else USER_DEFINED
    if len(set(tokens)) < size:
        twice = next(text for text in tokens if tokens.count(text) > 1)
        raise ModelError(f"the tokenizer has the token {twice!r} twice")
    return tokens, kinds


def _frame(tokenizer: PreTrainedTokenizerFast) -> tuple[bool, bool]:
    """Whether the tokenizer itself puts its first and its last token around a text."""
    own = list(tokenizer("").input_ids)
    for before in (False, True):
        for after in (False, True):
            if own == [tokenizer.bos_token_id] * before + [tokenizer.eos_token_id] * after:
                return before, after
    raise ModelError(f"the tokenizer puts the tokens {own} around a text; llama.cpp can put one before and one after")


def _special(tokenizer: PreTrainedTokenizerFast, stops: list[int]) -> dict[str, int]:
    """Ids by llama.cpp's names; the end of a turn is the first stop that is not the end of a text."""
    turn_end = next((at for at in stops if at != tokenizer.eos_token_id), None)
    found = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "eot": turn_end,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    return {name: at for name, at in found.items() if at is not None}


def _cut_notes(cuts: Cuts) -> list[str]:
    if not cuts.obstacle:
        return []
    return [
        f"inexact tokenizer: {cuts.obstacle}; they are left out, so that every line break is a token of its own and "
        "texts with runs of line breaks or indented lines become other tokens than in training"
    ]


def _notes(state: Mapping[str, Any], made: Vocabulary) -> list[str]:
    """What llama.cpp does differently with this tokenizer, in words."""
    notes = []
    for flag, what in (
        ("single_word", "count only as whole words; llama.cpp finds them inside words too"),
        ("lstrip", "take the white space before them along; in llama.cpp they do not"),
        ("rstrip", "take the white space after them along; in llama.cpp they do not"),
    ):
        if names := [token["content"] for token in state["added_tokens"] if token[flag]]:
            notes.append(f"the tokens {', '.join(names[:4])}{' …' if len(names) > 4 else ''} {what}")
    if state["normalizer"] is not None:
        kind = state["normalizer"]["type"]
        if kind != "NFC":
            raise ModelError(f"the tokenizer changes text before it cuts it ({kind}), which llama.cpp does not")
        notes.append("the tokenizer brings text into Unicode's form NFC first; llama.cpp does not")
    unused = made.kinds.count(UNUSED)
    if unused:
        notes.append(f"{unused} rows of the embedding belong to no token")
    if made.chat_template is None:
        notes.append("there is no chat template")
    return notes
