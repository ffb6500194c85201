"""More tokens for a model that exists: a larger tokenizer, an embedding and a head with rows for it.

The folder is worked on tensor by tensor, so weights keep their type, and every file that has nothing to do with the
vocabulary is copied as it is. Old rows do not change. A new row begins as the mean of the rows of the pieces that its
token used to be cut into, for the embedding and for an untied head apart (init "pieces"), or as the mean of all tokens'
rows ("all"; Hewitt 2021, "Initializing new word embeddings for pretrained language models"). A model so made says
nothing new until it is trained on: the tokens are shorthand, not knowledge.

Words (the default) are found in any text, those given for `special` only where control tokens are. Limits: added words
are looked for before anything else, also inside longer words; models must keep `model.embed_tokens.weight` (and, if
untied, `lm_head.weight`), as the Llama, Qwen, Mistral, SmolLM and Luopan families do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from luopan.artifacts import atomic_write_json, fsync_tree, mend_os_errors
from luopan.errors import DataError, ModelError
from luopan.tokens.encode import encode_plainly
from luopan.tokens.tokenizer import load_tokenizer, plain_backend, save_tokenizer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Extended:
    """What `extend_model` did. `rows` are those of the embedding: the vocabulary and what rounding adds."""

    added: int
    vocabulary_before: int
    vocabulary: int
    rows_before: int
    rows: int
    tied: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_tokens(file: Path) -> list[str]:
    """New tokens from a file: one a line (spaces count, empty lines do not), or a JSON list in a .json file."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else [line for line in text.split("\n") if line]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=file) from None
    except ValueError as error:  # not UTF-8, not JSON
        raise DataError(f"cannot be read: {error}", where=file) from None
    if not isinstance(found, list) or not all(isinstance(token, str) for token in found):
        raise DataError("is not a list of strings", where=file)
    if not found:
        raise DataError("holds no tokens", where=file)
    return found


def add_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str], *, special: bool = False) -> None:
    """Give the tokenizer new tokens, behind those it has.

    Raises DataError for one that is empty, given twice, or a token already.
    """
    backend = plain_backend(tokenizer)
    seen: set[str] = set()
    for number, token in enumerate(tokens, start=1):
        where = f"token {number}, {token!r}"
        if not token.strip():
            raise DataError("is white space only, which texts are cut at", where=where, hint="leave it out")
        if token in seen:
            raise DataError("is given twice", where=where)
        whole = len(encode_plainly(backend, [token])[0]) == 1
        if token in tokenizer.get_vocab() or (whole and not special):
            raise DataError("is a token already", where=where, hint="leave it out")
        seen.add(token)
    # Words are looked for in normalised text, which is how `plain_backend` tells them from control tokens.
    added = [AddedToken(token, special=special, normalized=not special) for token in tokens]
    count = tokenizer.add_tokens(added, special_tokens=special)
    if count != len(tokens):
        raise DataError(f"only {count} of {len(tokens)} tokens are new to this tokenizer")


def extend_model(
    model: Path | str,
    tokens: Sequence[str],
    out: Path | str,
    *,
    init: str = "pieces",
    multiple_of: int = 128,
    special: bool = False,
) -> Extended:
    """Write to `out` the model in the folder `model`, with these tokens added.

    Rows are rounded up to a multiple of `multiple_of`; those beyond the vocabulary hold the mean of all. Rows the model
    has to spare already are used first. Raises DataError for tokens that cannot be added, ModelError for a folder that
    is no model of a known form, ArtifactError where `out` exists.
    """
    folder, out = Path(model), Path(out)
    if out.exists():
        raise ModelError("exists already", where=out, hint="give a folder that does not exist")
    config = _read_json(folder / "config.json")
    tokenizer = load_tokenizer(folder)
    before = len(tokenizer)
    pieces = encode_plainly(plain_backend(tokenizer), list(tokens))
    add_tokens(tokenizer, tokens, special=special)
    files = _files_of(folder)
    if EMBEDDING not in files:
        raise ModelError(f"there is no {EMBEDDING}", where=folder, hint="only families of the Llama kind are extended")
    tied = HEAD not in files
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with mend_os_errors(out):
            shutil.copytree(folder, partial, ignore=shutil.ignore_patterns("checkpoints", "*.bin", "*.pt"))
            rows_before, rows = 0, 0
            for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
                rows_before, rows = _extend_tensor(partial / files[name], name, before, pieces, init, multiple_of)
            _correct_total(partial)
            save_tokenizer(tokenizer, partial)
            atomic_write_json(partial / "config.json", {**config, "vocab_size": rows})
            fsync_tree(partial)
            partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Extended(len(tokens), before, len(tokenizer), rows_before, rows, tied)


def new_rows(weight: Tensor, vocabulary: int, pieces: Sequence[Sequence[int]], init: str, rows: int) -> Tensor:
    """`weight` [V', C] with rows for new tokens from row `vocabulary` on, [rows, C]; row i of them from `pieces[i]`.

    Means are taken in fp32. `init` is "pieces" or "all".
    """
    mean = weight[:vocabulary].float().mean(0)
    grown = mean.to(weight.dtype).repeat(rows, 1)  # [rows, C]
    grown[:vocabulary] = weight[:vocabulary]
    for number, ids in enumerate(pieces):
        start = weight[list(ids)].float().mean(0) if init == "pieces" and ids else mean
        grown[vocabulary + number] = start.to(weight.dtype)
    return grown


def _extend_tensor(
    file: Path, name: str, vocabulary: int, pieces: Sequence[Sequence[int]], init: str, multiple_of: int
) -> tuple[int, int]:
    """Write one tensor of a weights file larger; its rows before and after."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {"format": "pt"}
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    weight = tensors[name]
    if weight.shape[0] < vocabulary:
        raise ModelError(f"{name} has {weight.shape[0]} rows, the tokenizer {vocabulary} tokens", where=file)
    needed = max(weight.shape[0], vocabulary + len(pieces))
    rows = -(-needed // multiple_of) * multiple_of
    tensors[name] = new_rows(weight, vocabulary, pieces, init, rows)
    temporary = file.with_name(f".{file.name}.tmp")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, file)
    return weight.shape[0], rows


def _correct_total(folder: Path) -> None:
    """The index of several weights files says how many bytes they hold in all."""
    if not (folder / INDEX).is_file():
        return
    from safetensors.torch import load_file

    index = _read_json(folder / INDEX)
    files = sorted(set(index["weight_map"].values()))
    total = sum(tensor.nbytes for file in files for tensor in load_file(folder / file).values())
    atomic_write_json(folder / INDEX, {**index, "metadata": {**index.get("metadata", {}), "total_size": total}})


def _files_of(folder: Path) -> dict[str, str]:
    """Which file holds which tensor."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).is_file():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or any(Path(str(name)).name != name for name in weight_map.values()):
            raise ModelError("weight_map is missing, or names a file elsewhere", where=folder / INDEX)
        return weight_map
    try:
        with safe_open(folder / WEIGHTS, "pt") as opened:
            return dict.fromkeys(opened.keys(), WEIGHTS)
    except FileNotFoundError:
        raise ModelError(f"there is no {WEIGHTS}", where=folder) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"is damaged or no safetensors file ({error})", where=folder / WEIGHTS) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", where=file) from None
    if not isinstance(value, dict):
        raise ModelError("is not a JSON object", where=file)
    return value
