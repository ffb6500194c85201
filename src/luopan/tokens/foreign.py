"""Tokenizers in the forms in which other people's software carries them, to compare one's own with.

A folder or file with `tokenizer.json`; GPT-2's pair `encoder.json` and `vocab.bpe` (or `vocab.json` and `merges.txt`);
the `.tiktoken` lists of byte strings. `package:NAME/PATH` is a file or folder inside an installed Python package, which
is found without importing it; several packages carry the vocabulary of a well-known model (docs/tokens.md names some).

Limits: these files hold vocabulary and merges, not chat templates, and most do not name their special tokens. A
`.tiktoken` file does not say how words are cut: GPT-4's rule is taken, with digits one by one where "qwen" is in the
file's name. Good for measuring, not for training a model that is to be published with them.
"""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.tokens.audit import BYTE_CHARACTERS
from luopan.tokens.config import BYTES, GPT4_WORDS
from luopan.tokens.tokenizer import load_tokenizer

PACKAGE = "package:"
_GPT2_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def open_tokenizer(path: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer at `path`, in any form that this module knows. Raises ModelError where there is none."""
    place = package_path(str(path)) if str(path).startswith(PACKAGE) else Path(path)
    try:
        if place.is_dir():
            for vocabulary, merges in _GPT2_PAIRS:
                if (place / merges).is_file() and not (place / "tokenizer.json").is_file():
                    return _gpt2(place / vocabulary, place / merges)
            if (place / "tokenizer.json").is_file() and not (place / "tokenizer_config.json").is_file():
                return PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"))
            return load_tokenizer(place)
        if place.suffix == ".json":
            return PreTrainedTokenizerFast(tokenizer_file=str(place))
        if place.is_file():
            return _tiktoken(place)
    except ModelError:
        raise
    except Exception as error:  # `tokenizers` raises plain Exception
        raise ModelError(f"no tokenizer can be read: {str(error).splitlines()[0]}", where=place) from error
    raise ModelError("there is no such file or folder", where=place)


def is_foreign(path: Path | str) -> bool:
    """Whether `path` names a tokenizer in one of this module's forms, rather than a model or a stage."""
    if str(path).startswith(PACKAGE):
        return True
    place = Path(path)
    return place.is_file() or (place.is_dir() and any((place / merges).is_file() for _, merges in _GPT2_PAIRS))


def package_path(reference: str) -> Path:
    """The file or folder that `package:NAME/PATH` names; ModelError where there is no such package."""
    name, _, inside = reference.removeprefix(PACKAGE).partition("/")
    try:
        found = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        found = None
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        raise ModelError(f"there is no package {name!r}", where=reference, hint="pip install the package first")
    root = Path(folders[0]).resolve()
    place = (root / inside).resolve()
    if not place.is_relative_to(root):
        raise ModelError("is outside of its package", where=reference)
    return place


def _gpt2(vocabulary: Path, merges: Path) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    if backend.token_to_id(end) is None:
        return PreTrainedTokenizerFast(tokenizer_object=backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end)


def _tiktoken(file: Path) -> PreTrainedTokenizerFast:
    words = GPT4_WORDS % ("" if "qwen" in file.name.lower() else "{1,3}")
    backend = Tokenizer(_ranked(file))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _ranked(file: Path) -> models.BPE:
    """Byte strings and their ranks as a BPE model: of all pairs that make a known string the lowest rank merges first.

    Every way to put a string together from two known ones is a merge, in the order of the strings' ranks.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        parts = line.split()
        if parts:
            try:
                word, rank = parts
                ranks[base64.b64decode(word, validate=True)] = int(rank)
            except ValueError:
                hint = "give tokenizer.json, a .tiktoken file, or their folder"
                raise ModelError("is no list of tokens", where=f"{file}:{number}", hint=hint) from None
    if len(ranks) < BYTES:
        raise ModelError(f"has {len(ranks)} tokens, fewer than there are bytes", where=file)
    written = {word: "".join(map(BYTE_CHARACTERS.__getitem__, word)) for word in ranks}
    merges = [
        (written[word[:cut]], written[word[cut:]])
        for word in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(word))
        if word[:cut] in ranks and word[cut:] in ranks
    ]
    return models.BPE({written[word]: rank for word, rank in ranks.items()}, merges, ignore_merges=True)
