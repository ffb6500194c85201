"""GGUF files, llama.cpp's format, as Hugging Face folders that luopan reads.

What comes out are the weights that llama.cpp computes with, as fp32: a model quantised to four bits does not get its
lost digits back. Architectures that are written here are read here (`model/gguf_read.py`), and so are byte-level
tokenizers whose cutting rule `gguf_cuts.py` knows; others by `transformers`, which does not read the rule. The format
holds tensors and plain values, no code. Needs `gguf` and `accelerate` (the extra `gguf`).
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.model.gguf_read import GgufModel
from luopan.tokens.gguf_cuts import pre_tokenizer_named
from luopan.tokens.gguf_vocab import CONTROL, NORMAL, USER_DEFINED
from luopan.tokens.tokenizer import save_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NEEDS = ("gguf", "accelerate")


def check_gguf(file: Path) -> None:
    """ModelError for a file that is none, or where a package is missing that reads it."""
    if not file.is_file():
        raise ModelError("there is no such file", where=file)
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelError("is no GGUF file: it does not begin with GGUF", where=file)
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ModelError(f"reading GGUF needs {' and '.join(missing)}", where=file, hint="pip install luopan[gguf]")


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model in `file` to `folder` as a Hugging Face folder in fp32. Raises ModelError for what cannot be."""
    check_gguf(file)
    opened = GgufModel(file)
    rule = pre_tokenizer_named(opened.vocabulary("ggml.pre"))
    known = rule is not None and opened.vocabulary("ggml.model") == "gpt2"
    tokenizer = _our_tokenizer(opened, rule) if known else _their_tokenizer(file)
    decoder = _theirs(file) if opened.architecture is None else _ours(opened)
    folder.mkdir(parents=True, exist_ok=True)
    hf.save(decoder, folder, architecture="auto", eos_token_id=tokenizer.eos_token_id)
    save_tokenizer(tokenizer, folder)


def _ours(opened: GgufModel) -> Decoder:
    config = opened.config()
    decoder = Decoder(config)
    state = opened.state(config, [name for name, _ in decoder.named_parameters()])
    for name, value in decoder.named_parameters():
        if state[name].shape != value.shape:
            raise ModelError(
                f"{name} is {list(state[name].shape)}, the file's keys say {list(value.shape)}", where=opened.file
            )
    decoder.load_state_dict(state, strict=False, assign=True)
    return decoder


def _theirs(file: Path) -> Decoder:
    import torch
    from transformers import AutoModelForCausalLM

    with _damage_told(file):
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    values = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    config = hf.from_hf_config(values)
    decoder = Decoder(config)
    decoder.load_state_dict(hf.import_state_dict(config, model.state_dict(), where=file), assign=True)
    return decoder


def _our_tokenizer(opened: GgufModel, rule: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose cutting rule is known."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    tokens = opened.vocabulary("ggml.tokens") or []
    kinds = opened.vocabulary("ggml.token_type") or [NORMAL] * len(tokens)
    merges = [tuple(merge.split(" ", 1)) for merge in opened.vocabulary("ggml.merges") or ()]
    whole_words = opened.vocabulary("ggml.pre") == "llama-bpe"
    try:
        made = Tokenizer(models.BPE({text: at for at, text in enumerate(tokens)}, merges, ignore_merges=whole_words))
    except Exception as error:  # the library's own kind
        raise ModelError(f"its tokenizer cannot be built: {error}", where=opened.file) from error
    made.pre_tokenizer, made.decoder = rule, decoders.ByteLevel()
    for text, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, USER_DEFINED):
            made.add_tokens([AddedToken(text, special=kind == CONTROL, normalized=False)])
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {ours: opened.vocabulary(f"ggml.{theirs}_token_id") for theirs, ours in names.items()}
    special = {f"{name}_token": tokens[at] for name, at in ids.items() if at is not None and at < len(tokens)}
    if opened.vocabulary("ggml.add_bos_token") and ids["bos"] is not None:
        first = tokens[ids["bos"]]
        made.post_processor = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", "$B:1"], special_tokens=[(first, ids["bos"])]
        )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **special)
    wrapped.chat_template = opened.vocabulary("chat_template")
    return wrapped


def _their_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with _damage_told(file):
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError("its tokenizer has no fast form", where=file)
    return tokenizer


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    """Whatever transformers fails with, as a ModelError, and without its progress bars, which cannot be turned off."""
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # a damaged file fails its parser in many ways
        raise ModelError(
            f"cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}", where=file
        ) from error
