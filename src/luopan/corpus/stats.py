"""What the data card says about a corpus, counted while its documents are written.

`CorpusStats` of each split are merged; they hold sums, bounded tables and a few samples, so they stay small whatever
the size of the corpus, and can be pickled. Sums, samples and spans depend on the documents alone. Above `MAX_DOMAINS`
hosts the smallest are summed up under `others`: then a small host's figure is a lower bound.

Cost: 10 to 12 ms per megabyte of English web pages (one core of two that others used as well), most of it for the
repeated spans; with a tokenizer as long as that takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.counting import SpanCounts, word_edges
from luopan.corpus.select import key
from luopan.errors import DataError

SAMPLES = 3  # per source
SAMPLE_CHARACTERS = 400
REJECTED_SAMPLES = 2  # per rule
MAX_DOMAINS = 1 << 17
UNKNOWN = "unknown"  # the language of a document that no step looked at
SHORTEST_BUCKET = 6  # lengths below 2^6 bytes are one bucket
QUALITY_BUCKETS = 20

KEPT = ("train", "held_out")  # the parts of a corpus


@dataclass
class Amount:
    """Documents and what is in them. `tokens` is 0 where no tokenizer counts them."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0

    def add(self, documents: int, size: int, words: int = 0, tokens: int = 0) -> None:
        self.documents += documents
        self.bytes += size
        self.words += words
        self.tokens += tokens

    def merge(self, other: Amount) -> None:
        self.add(other.documents, other.bytes, other.words, other.tokens)


@dataclass
class SourceStats:
    """What is known of one source."""

    kept: dict[str, Amount] = field(default_factory=lambda: {part: Amount() for part in KEPT})
    languages: dict[str, Amount] = field(default_factory=dict)
    samples: dict[int, dict[str, str]] = field(default_factory=dict)  # by hash of the id; the smallest stay

    def merge(self, other: SourceStats) -> None:
        for part, amount in other.kept.items():
            self.kept[part].merge(amount)
        merge_amounts(self.languages, other.languages)
        self.samples = smallest({**self.samples, **other.samples}, SAMPLES)


class CorpusStats:
    """Counts over the documents that a corpus keeps, by source.

    `tokenizer` is a folder with a tokenizer.json, or that file; without one tokens are estimated in the card.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.sources: dict[str, SourceStats] = {}
        self.lengths: dict[int, int] = {}  # documents by the binary logarithm of their size
        self.domains: dict[str, Amount] = {}
        self.other_domains = Amount()
        self.pii: dict[str, int] = {}
        self.quality: dict[int, int] = {}  # documents by score, in twentieths
        self.spans = SpanCounts()
        self.rejected: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}

    def add(self, batch: DocumentBatch, part: str) -> None:
        """Count a batch that goes to `part`, train or held_out. DataError if the tokenizer cannot be read."""
        if not len(batch):
            return
        texts = batch.arrow.column("text")
        sizes = np.diff(np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1])
        edges = word_edges(texts)
        tokens = [0] * len(batch) if self.tokenizer is None else count_tokens(batch.texts, self.tokenizer)
        for source, *counts, meta in zip(batch.sources, sizes.tolist(), edges.counts().tolist(), tokens, batch.metas):
            own = self.sources.get(source)
            if own is None:
                own = self.sources[source] = SourceStats()
            own.kept[part].add(1, *counts)
            amount_at(own.languages, meta.get("language") or UNKNOWN).add(1, *counts)
            self.add_meta(meta, counts[0])
        buckets = np.maximum(np.frexp(sizes)[1], SHORTEST_BUCKET)  # exact: sizes are below 2^31
        for bucket, documents in zip(*(each.tolist() for each in np.unique(buckets, return_counts=True))):
            self.lengths[bucket] = self.lengths.get(bucket, 0) + documents
        self.spans.add_words(edges)
        if part == "train":
            self.add_samples(batch)

    def add_meta(self, meta: Mapping[str, Any], size: int) -> None:
        """Count what steps noted beside a text: where it is from, personal data replaced, a score."""
        if isinstance(url := meta.get("url"), str) and (host := host_of(url)):
            amount_at(self.domains, host).add(1, size)
            if len(self.domains) > MAX_DOMAINS:
                self.thin_domains()
        if isinstance(pii := meta.get("pii"), Mapping):
            for kind, count in pii.items():
                self.pii[kind] = self.pii.get(kind, 0) + int(count)
        if isinstance(score := meta.get("quality"), int | float):
            bucket = min(max(int(score * QUALITY_BUCKETS), 0), QUALITY_BUCKETS - 1)
            self.quality[bucket] = self.quality.get(bucket, 0) + 1

    def add_samples(self, batch: DocumentBatch) -> None:
        for row, (id, source) in enumerate(zip(batch.ids, batch.sources)):
            own, at = self.sources[source], key("card", id)
            if len(own.samples) < SAMPLES or at < max(own.samples):
                shown = {"id": id, "text": batch.texts[row][:SAMPLE_CHARACTERS]}
                own.samples = smallest({**own.samples, at: shown}, SAMPLES)

    def add_rejected(self, rows: pa.RecordBatch) -> None:
        """Keep a few of the rejected documents (columns of `store.REJECTED`) of every rule, to be shown."""
        columns = (rows.column(name).to_pylist() for name in ("id", "step", "rule"))
        for row, (id, step, rule) in enumerate(zip(*columns)):
            own, at = self.rejected.get((step, rule), {}), key("card", id)
            if len(own) < REJECTED_SAMPLES or at < max(own):
                shown = {name: rows.column(name)[row].as_py() for name in REJECTED_SHOWN}
                shown["text"] = None if shown["text"] is None else shown["text"][:SAMPLE_CHARACTERS]
                self.rejected[step, rule] = smallest({**own, at: shown}, REJECTED_SAMPLES)

    def thin_domains(self) -> None:
        """Sum the smaller half of the hosts up under `other_domains`."""
        ordered = sorted(self.domains.items(), key=lambda item: (-item[1].documents, -item[1].bytes, item[0]))
        for _, amount in ordered[MAX_DOMAINS // 2 :]:
            self.other_domains.merge(amount)
        self.domains = dict(ordered[: MAX_DOMAINS // 2])

    def merge(self, other: CorpusStats) -> None:
        """Add what was counted over other documents."""
        assert self.tokenizer == other.tokenizer, "counts by different tokenizers"
        for name, stats in other.sources.items():
            self.sources.setdefault(name, SourceStats()).merge(stats)
        for mine, theirs in ((self.lengths, other.lengths), (self.quality, other.quality)):
            for bucket, documents in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + documents
        for kind, count in other.pii.items():
            self.pii[kind] = self.pii.get(kind, 0) + count
        merge_amounts(self.domains, other.domains)
        self.other_domains.merge(other.other_domains)
        if len(self.domains) > MAX_DOMAINS:
            self.thin_domains()
        self.spans.merge(other.spans)
        for rule, samples in other.rejected.items():
            self.rejected[rule] = smallest({**self.rejected.get(rule, {}), **samples}, REJECTED_SAMPLES)


REJECTED_SHOWN = ("id", "source", "where", "value", "threshold", "detail", "bytes", "text")


def amount_at(amounts: dict[str, Amount], name: str) -> Amount:
    found = amounts.get(name)
    if found is None:
        found = amounts[name] = Amount()
    return found


def merge_amounts(mine: dict[str, Amount], theirs: Mapping[str, Amount]) -> None:
    for name, amount in theirs.items():
        amount_at(mine, name).merge(amount)


def smallest(samples: Mapping[int, Any], most: int) -> dict[int, Any]:
    """The samples with the `most` smallest keys, in their order."""
    return {at: samples[at] for at in sorted(samples)[:most]}


def host_of(url: str) -> str:
    """The host of a URL in small letters without `www.`, "" if there is none."""
    _, marked, rest = url.partition("://")
    host = (rest if marked else url).split("/", 1)[0].split("?", 1)[0].rpartition("@")[2]
    return host.split(":", 1)[0].lower().removeprefix("www.")


def count_tokens(texts: Sequence[str], tokenizer: str) -> list[int]:
    """[N] tokens of each text, special ones aside. DataError if there is no such tokenizer."""
    encode = load_tokenizer(tokenizer).encode
    return [len(encode(text, add_special_tokens=False).ids) for text in texts]


@lru_cache(maxsize=2)
def load_tokenizer(tokenizer: str) -> Any:
    """The `tokenizers.Tokenizer` of a folder or a tokenizer.json, loaded once per process."""
    from tokenizers import Tokenizer

    path = Path(tokenizer)
    tried = [path, path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"]
    file = next((each for each in tried if each.is_file()), None)
    if file is None:
        raise DataError("holds no tokenizer.json", where=path, hint="Give a tokenizer stage or a model's folder.")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower one
        raise DataError(f"is no tokenizer: {error}", where=file) from None
