"""Byte-level BPE tokenizers: trained here, saved as Hugging Face folders that load anywhere.

All 256 bytes are in the vocabulary, so any text comes back exactly as it went in. Digits stand alone, or in threes,
which small models need to learn arithmetic. The first line break after a chat header or a tag is always a token of its
own, so that the tokens of a prompt do not depend on what follows them (see `_pre_tokenizer`). There is no token at the
beginning of a text, hence none to double.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luopan.artifacts import atomic_write_json, mend_os_errors
from luopan.errors import DataError, ModelError
from luopan.tokens.config import (
    CHAT_HEADER,
    CODE_WHITE_SPACE,
    DIGITS_BY_THREE,
    END_OF_TEXT,
    LINE_BREAK,
    PAD,
    ROLES,
    SPECIAL_TOKENS,
    VISIBLE_TOKENS,
    TokenizerConfig,
)
from luopan.tokens.template import luopan_template

INDENTATION = 16  # spaces: runs up to this long are one token each under the `code` rule


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `config.vocab_size` tokens; the same texts in the same order give the same tokenizer.

    Raises DataError where the texts are too few for that many tokens. Sennrich et al. 2016, arXiv:1508.07909, on bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(config)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [*SPECIAL_TOKENS, *VISIBLE_TOKENS, *config.extra_tokens, *config.reserved]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=config.max_token_length,
        show_progress=False,
    )
    always = [_header_text(), _indentation_text()] if config.whitespace == "code" else [_header_text()]
    tokenizer.train_from_iterator(chain(always, texts), trainer)
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        hint = f"use vocab_size {size // 128 * 128}" if size >= 384 else "give more text"
        message = (
            f"the text yields {size} tokens at min_frequency {config.min_frequency}, vocab_size is {config.vocab_size}"
        )
        raise DataError(message, hint=f"{hint}, or a lower min_frequency")
    return _wrapped(_with_visible_tokens(tokenizer, {*SPECIAL_TOKENS, *config.reserved}))


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder. Nothing is downloaded and no code of the folder is run.

    Raises ModelError where there is none, or none with a fast back-end.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError("there is no such folder", where=folder)
    kinds = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if not any((folder / name).is_file() for name in kinds):
        raise ModelError("there is no tokenizer in this folder", where=folder, hint="Copy tokenizer.json into it.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"no tokenizer can be loaded: {error}", where=folder) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            "this tokenizer has no tokenizer.json", where=folder, hint="convert it to the fast format first"
        )
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, path: Path | str) -> None:
    """Write `tokenizer.json`, its configuration and the chat template into a folder."""
    folder = Path(path)
    with mend_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(str(folder))
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        atomic_write_json(config_file, _portable(config))


def fertility(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> dict[str, float]:
    """How finely a tokenizer cuts texts.

    `bytes_per_token` over whole texts; `tokens_per_word` and `continued_word_rate` (words cut in two or more) over
    words as they stand between white space. Raises DataError for texts without a word.
    """
    texts = list(texts)
    backend = plain_backend(tokenizer)
    words = Counter(word for text in texts for word in re.findall(r"\S+", text))
    if not words:
        raise DataError("there is no text to measure the tokenizer on")
    tokens = sum(len(e.ids) for e in backend.encode_batch_fast(texts, add_special_tokens=False))
    spaced = backend.encode_batch_fast([" " + word for word in words], add_special_tokens=False)
    counts = [(len(e.ids), times) for e, times in zip(spaced, words.values(), strict=True)]
    total = sum(words.values())
    return {
        "bytes_per_token": sum(len(text.encode()) for text in texts) / tokens,
        "tokens_per_word": sum(length * times for length, times in counts) / total,
        "continued_word_rate": sum(times for length, times in counts if length > 1) / total,
    }


def document_frame(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """What stands before a document (what the tokenizer itself puts there) and after it (its end-of-text token)."""
    own = list(tokenizer("").input_ids)
    before = own if own == [tokenizer.bos_token_id] else []
    if tokenizer.eos_token_id is None:
        raise ModelError("this tokenizer has no end-of-text token", hint="set tokenizer.eos_token")
    return before, [tokenizer.eos_token_id]


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer, but for it every text is only text: it recognises no control tokens.

    Added tokens that are words stay: those that are not special and are looked for in normalised text, which is how
    `luopan.tokens.extend` adds words and how some families add runs of spaces.
    """
    return _plain_backend(tokenizer, len(tokenizer))


@lru_cache(maxsize=8)
def _plain_backend(tokenizer: PreTrainedTokenizerFast, _size: int) -> Tokenizer:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["normalized"] and not t["special"]]
    state["post_processor"] = state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state))


def _pre_tokenizer(config: TokenizerConfig) -> pre_tokenizers.PreTokenizer:
    """Chat headers and leading line breaks alone, runs of white space and digits as configured, then GPT-2's words.

    Text is cut at special tokens before it comes here, so `\\A` is what follows one: "assistant\\n" after a turn's
    start, the line break after `</think>`. Were that line break to merge with line breaks of the answer, the prompt
    would end on a token that training never had there.
    """
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Split(Regex(CHAT_HEADER), behavior="isolated")]
    if config.whitespace == "code":
        steps.append(pre_tokenizers.Split(Regex(CODE_WHITE_SPACE), behavior="isolated"))
    elif config.whitespace == "lines":
        steps.append(pre_tokenizers.Split(Regex(LINE_BREAK), behavior="isolated"))
    if config.split_digits and config.digit_group == 3:
        steps.append(pre_tokenizers.Split(Regex(DIGITS_BY_THREE), behavior="isolated"))
    elif config.split_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    return pre_tokenizers.Sequence(steps)


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration in words that transformers 4 and 5 both know, without traces of how it was loaded."""
    config = {key: value for key, value in config.items() if key not in ("is_local", "local_files_only", "backend")}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(extra := config.pop("extra_special_tokens", None), list):
        config["additional_special_tokens"] = extra
    return config


def _header_text() -> str:
    """The names of the roles, often enough that each becomes one token.

    They stand in every conversation: a vocabulary of 1024 learned from text alone spends twelve more tokens on them for
    a question and its answer.
    """
    return "\n".join([*ROLES] * 10_000)


def _indentation_text() -> str:
    """Runs of spaces, often enough that each length up to `INDENTATION` becomes one token, whatever the text holds."""
    return "".join("\n" + " " * length + "x" for length in range(2, INDENTATION + 1)) * 10_000


def _with_visible_tokens(tokenizer: Tokenizer, hidden: set[str]) -> Tokenizer:
    """Tokens that the trainer takes for special stay visible when decoding; the switches count only as whole words."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] in hidden
        token["single_word"] = token["content"].startswith("/")
    return Tokenizer.from_str(json.dumps(state))


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        extra_special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS[1:3]],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.chat_template = luopan_template()
    return wrapped
