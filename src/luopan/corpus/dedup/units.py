"""Paragraphs or lines that came before anywhere in the corpus: boilerplate, licences, navigation.

Which parts of a text count as units is a function of the text and the settings alone, so the hashes that are noted in
one pass and the verdicts that come back in another fit together by their order. Case and white space do not count.

Limits: of equal units the first one in the order of the sources stays, wherever it stands; a document that loses one
may read as if torn. If the document with the first one is left out by a later step, the unit is gone. Hashes have 64
bits: among a billion different units one in forty runs takes two for one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.dedup.shuffle import SplitKeys, answers
from luopan.corpus.dedup_config import ExactConfig
from luopan.corpus.executor import Executor


@lru_cache(maxsize=2)
def border(line: bool) -> re.Pattern[str]:
    """What parts units: line ends, or blank lines."""
    return re.compile(r"\n+" if line else r"\n(?:[^\S\n]*\n)+")


def unit_spans(text: str, config: ExactConfig) -> list[tuple[int, int]]:
    """(start, end) of the paragraphs or lines of `text`, in order, without what parts them."""
    spans, at = [], 0
    for found in border(config.line).finditer(text):
        if found.start() > at:
            spans.append((at, found.start()))
        at = found.end()
    if at < len(text):
        spans.append((at, len(text)))
    return spans


def may_go(unit: str, config: ExactConfig) -> bool:
    """True for a unit that may be dropped: not blank, long enough, and no heading where those are to stay."""
    if len(unit) < config.min_unit_bytes and (
        unit.isascii() or len(unit.encode("utf-8", "surrogatepass")) < config.min_unit_bytes
    ):
        return False
    if config.keep_headings and unit.startswith("#") and "\n" not in unit:
        return False
    return bool(unit) and not unit.isspace()


def countable(text: str, config: ExactConfig) -> list[tuple[int, int]]:
    """The spans of the units that may be dropped."""
    return [(start, end) for start, end in unit_spans(text, config) if may_go(text[start:end], config)]


def unit_hashes(texts: Sequence[str], config: ExactConfig) -> tuple[np.ndarray, np.ndarray]:
    """([N] int64 units of each text that may be dropped; [U] uint64 their hashes, texts in order)."""
    found: list[bytes] = []
    sizes = np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        own = [unit_hash(text[start:end]) for start, end in countable(text, config)]
        sizes[row] = len(own)
        found.extend(own)
    return sizes, np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def unit_hash(unit: str) -> bytes:
    """8 bytes, equal for units that differ in case and white space only."""
    return hashlib.blake2b(" ".join(unit.casefold().split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def repeated_units(files: Sequence[Path], folder: Path, executor: Executor, partitions: int = 1) -> list[Path]:
    """Per split a file of [units] bool in `folder`: true for a unit that came before, in any split.

    `files` hold the hashes of each split's units, [units] uint64.
    """
    return answers(files, folder, executor, partitions, write_repeated)


def write_repeated(split: SplitKeys, firsts: np.ndarray, folder: Path) -> Path:
    """The answer for one split."""
    path = folder / f"repeated-{split.number:05d}.npy"
    np.save(path, firsts >= 0)
    return path


def without_units(batch: DocumentBatch, counts: np.ndarray, drop: np.ndarray, config: ExactConfig) -> Outcome:
    """The batch without the units for which `drop` [sum of counts] is true; `counts` [N] are from `unit_hashes`.

    A document that lost something and has fewer than `min_document_bytes` left, or nothing, is rejected as it was.
    """
    assert len(counts) == len(batch) and len(drop) == counts.sum(), "counts and verdicts of other documents"
    ends = np.cumsum(counts)
    touched = [row for row in range(len(batch)) if drop[ends[row] - counts[row] : ends[row]].any()]
    texts, stays, rejected = list(batch.texts), [True] * len(batch), []
    figures = {"units_dropped": 0, "bytes_dropped": 0, "documents_shortened": 0}
    for row in touched:
        verdicts = drop[ends[row] - counts[row] : ends[row]].tolist()
        text = batch.texts[row]
        spans = countable(text, config)
        assert len(spans) == len(verdicts), "the text is not the one whose units were counted"
        left = without(text, [span for span, dropped in zip(spans, verdicts) if dropped], config)
        size = len(left.encode("utf-8", "surrogatepass"))
        if not left or size < config.min_document_bytes:
            stays[row] = False
            least = float(config.min_document_bytes)
            detail = (
                f"{sum(verdicts)} of its {'lines' if config.line else 'paragraphs'} came before; {size} bytes are left"
            )
            rule = "min_document_bytes"
            rejected.append(rejection(batch, row, "exact", rule, value=float(size), threshold=least, detail=detail))
            continue
        texts[row] = left
        figures["units_dropped"] += sum(verdicts)
        figures["bytes_dropped"] += len(text.encode("utf-8", "surrogatepass")) - size
        figures["documents_shortened"] += 1
    kept = batch.with_texts(texts).keep(stays) if touched else batch
    return Outcome(kept, rejected, figures if any(figures.values()) else {})


def without(text: str, spans: Sequence[tuple[int, int]], config: ExactConfig) -> str:
    """`text` without `spans` and what parts each from the next unit; no line ends are left at the ends of the text."""
    parts, at = [], 0
    for start, end in spans:
        parts.append(text[at:start])
        behind = border(config.line).match(text, end)
        at = behind.end() if behind else end
    parts.append(text[at:])
    return "".join(parts).strip("\n")
