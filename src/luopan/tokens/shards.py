"""Token shards: documents on disk as flat files of numbers, read through a memory map.

A folder holds `tokens-00000.bin`, … (uint16, or uint32 for large vocabularies), `lengths.npy` (the tokens of each
document) and `index.json` with the SHA-256 of each file. A shard ends at the border of a document. The folder is
written beside its place and renamed, so it is whole or not there; opening it compares every byte with its checksum,
because a flipped bit would otherwise be trained on.

Limit: checking reads everything once (about 1 GB/s); `verify=False` checks sizes only, for shards verified before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from luopan.artifacts import atomic_write_json, mend_os_errors, recover_folder, replace_folder, sha256_file, stable_hash
from luopan.errors import ArtifactError, DataError
from luopan.tokens.example import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

INDEX = "index.json"
LENGTHS = "lengths.npy"
FORMAT = "luopan token shards 1"


def write_shards(
    documents: Iterable[Ids], folder: Path | str, vocab_size: int, eos_id: int, *, tokens_per_shard: int = 1 << 27
) -> TokenShards:
    """Write documents to `folder` (replacing an older one once the new one is whole) and open it.

    A document that does not end with `eos_id` gets it. Raises DataError for a token outside the vocabulary, naming the
    document, and for no documents at all; DiskFullError or ArtifactError where the disk refuses.
    """
    folder = Path(folder)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    with mend_os_errors(folder), _workplace(folder) as partial:
        lengths, sizes = _write_tokens(documents, partial, dtype, vocab_size, eos_id, tokens_per_shard)
        if not lengths:
            raise DataError("there are no documents to write", where=folder)
        np.save(partial / LENGTHS, np.asarray(lengths, dtype="<i8"), allow_pickle=False)
        files = sorted(path for path in partial.iterdir())
        index: dict[str, Any] = {
            "format": FORMAT,
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "eos_id": eos_id,
            "documents": len(lengths),
            "tokens": sum(sizes),
            "shards": sizes,
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in files},
        }
        index["content"] = stable_hash(index)
        atomic_write_json(partial / INDEX, index)
        replace_folder(partial, folder)
    return TokenShards(folder, verify=False)


def write_text_shards(
    texts: Iterable[str],
    folder: Path | str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    workers: int = 1,
    tokens_per_shard: int = 1 << 27,
) -> TokenShards:
    """Tokenise texts and write them as shards, in `workers` processes; the files do not depend on how many.

    Errors as of `write_shards` and `luopan.tokens.encode.encode_documents`.
    """
    from luopan.tokens.encode import encode_documents

    documents = encode_documents(tokenizer, texts, workers=workers)
    return write_shards(
        documents, folder, len(tokenizer), int(tokenizer.eos_token_id), tokens_per_shard=tokens_per_shard
    )


class TokenShards:
    """Documents of a shard folder, by number.

    Raises ArtifactError where the folder is missing, incomplete or damaged, naming the file.
    """

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        self.path = Path(folder)
        recover_folder(self.path)
        index = _read_index(self.path)
        _check_files(self.path, index, verify)
        self.vocab_size: int = index["vocab_size"]
        self.eos_id: int = index["eos_id"]
        self.content: str = index["content"]
        self.lengths: np.ndarray = np.load(self.path / LENGTHS, allow_pickle=False)  # [D] int64
        self.num_documents: int = len(self.lengths)
        self.num_tokens: int = index["tokens"]
        self._ends = np.cumsum(self.lengths)  # [D] where each document ends in all shards laid end to end
        self._shard_ends = np.cumsum(index["shards"])
        totals = {self.num_tokens, int(self.lengths.sum()), sum(index["shards"])}
        if self.num_documents != index["documents"] or len(totals) > 1:
            raise ArtifactError("document lengths and tokens do not add up", where=self.path, hint=_REMEDY)
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        names = [_shard_name(i) for i in range(len(index["shards"]))]
        self._tokens = [np.memmap(self.path / name, dtype=dtype, mode="r") for name in names]

    def __len__(self) -> int:
        return self.num_documents

    def __repr__(self) -> str:
        return f"TokenShards({str(self.path)!r}: {self.num_documents} documents, {self.num_tokens} tokens)"

    def document(self, number: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens `start` to `stop` of a document, [n] int64, in memory of their own. IndexError out of range."""
        length = int(self.lengths[number])
        stop = length if stop is None else stop
        if number < 0 or not 0 <= start <= stop <= length:
            raise IndexError(f"tokens {start} to {stop} of document {number}, which has {length}")
        first = int(self._ends[number]) - length
        shard = int(np.searchsorted(self._shard_ends, first, side="right"))
        base = int(self._shard_ends[shard - 1]) if shard else 0
        return self._tokens[shard][first - base + start : first - base + stop].astype(np.int64)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.document(i) for i in range(self.num_documents))


_REMEDY = "run the stage that wrote it again (--fresh STAGE)"


def _shard_name(number: int) -> str:
    return f"tokens-{number:05d}.bin"


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`; what is left of it goes when the work fails."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_tokens(
    documents: Iterable[Ids], folder: Path, dtype: np.dtype, vocab_size: int, eos_id: int, tokens_per_shard: int
) -> tuple[list[int], list[int]]:
    """Write the shard files. Returns the tokens of each document and of each shard."""
    lengths: list[int] = []
    sizes: list[int] = []
    file: BinaryIO | None = None
    try:
        for number, document in enumerate(documents):
            # What `encode_documents` gives is of the right type already and is not copied.
            ids = document if isinstance(document, np.ndarray) else np.asarray(document, dtype=np.int64)
            if not ids.size or ids[-1] != eos_id:
                ids = np.append(ids.astype(np.int64), eos_id)
            if ids.max() >= vocab_size or (ids.dtype.kind != "u" and ids.min() < 0):
                bad = int(ids[(ids < 0) | (ids >= vocab_size)][0])
                raise DataError(f"token {bad} is not in a vocabulary of {vocab_size}", where=f"document {number}")
            if file is None or sizes[-1] + ids.size > tokens_per_shard:
                if file is not None:
                    file.close()
                file = open(folder / _shard_name(len(sizes)), "wb", buffering=1 << 20)  # noqa: SIM115 - closed below
                sizes.append(0)
            file.write(np.ascontiguousarray(ids.astype(dtype, copy=False)).data)
            lengths.append(ids.size)
            sizes[-1] += ids.size
    finally:
        if file is not None:
            file.close()
    return lengths, sizes


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ArtifactError("there are no token shards here", where=folder)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        content = index.pop("content")
        sound = index["format"] == FORMAT and content == stable_hash(index)
    except (ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"the index cannot be read: {error}", where=path, hint=_REMEDY) from error
    if not sound:
        raise ArtifactError("the index is damaged, or of another version", where=path, hint=_REMEDY)
    return {**index, "content": content}


def _check_files(folder: Path, index: dict[str, Any], checksums: bool) -> None:
    for name, record in index["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError("this token file is missing", where=path, hint=_REMEDY)
        if path.stat().st_size != record["bytes"]:
            message = f"this token file has {path.stat().st_size} bytes instead of {record['bytes']}"
            raise ArtifactError(message, where=path, hint=_REMEDY)
        if checksums and sha256_file(path) != record["sha256"]:
            raise ArtifactError("this token file is damaged: its checksum differs", where=path, hint=_REMEDY)
