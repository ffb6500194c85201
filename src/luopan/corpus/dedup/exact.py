"""Exact duplicates: of documents that are equal but for case and white space, the first one stays.

A document is 16 bytes here. They are compared in ranges of digests (`shuffle`), so memory does not grow with the
corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luopan.corpus.dedup.shuffle import SplitKeys, answers
from luopan.corpus.encoding import mostly_ascii
from luopan.corpus.executor import Executor

ASCII = bytes(range(128))
FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\t\n\v\f\r\x1c\x1d\x1e\x1f", b"abcdefghijklmnopqrstuvwxyz         ")


def fingerprint_text(text: str) -> bytes:
    """16 bytes, equal for texts that differ in case and white space only. Punctuation counts: "3-4" is not "3+4"."""
    folded = quickly_folded(text) if mostly_ascii(text) else None
    if folded is None:
        folded = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(folded, digest_size=16).digest()


def quickly_folded(text: str) -> bytes | None:
    """`text` in small letters with single spaces, by a few passes over its bytes, in a third of the time that casefold
    and split take; None if a character that is not ASCII is a capital or a space."""
    data = text.encode("utf-8", "surrogatepass")
    beyond = data.translate(None, ASCII).decode("utf-8", "surrogatepass")
    if beyond != "".join(beyond.casefold().split()):
        return None
    data = data.translate(FOLD)
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data.strip(b" ")


def digests(texts: Sequence[str]) -> np.ndarray:
    """[N, 2] uint64: `fingerprint_text` of each text."""
    joined = b"".join(map(fingerprint_text, texts))
    return np.frombuffer(joined, "<u8").astype(np.uint64).reshape(len(texts), 2)


def exact_twins(digest_files: Sequence[Path], folder: Path, executor: Executor, partitions: int = 1) -> list[Path]:
    """Per split a file of [rows] int64 in `folder`: the number of the first document with the same text, or -1.

    `digest_files` hold the `digests` of each split, [rows, 2]; a document's number is its row in all splits laid end to
    end. `partitions` is the least number of ranges to work on one by one; the answer does not depend on it.
    """
    return answers(digest_files, folder, executor, partitions, write_twins)


def write_twins(split: SplitKeys, firsts: np.ndarray, folder: Path) -> Path:
    """The answer for one split."""
    path = folder / f"twins-{split.number:05d}.npy"
    np.save(path, firsts)
    return path
