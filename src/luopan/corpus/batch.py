"""A batch of documents: Arrow columns, and beside each text what several steps need of it.

Steps are pure functions `(DocumentBatch, config) -> Outcome`. What they share (the words of a text) is computed once
and kept while the text stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from luopan.corpus.document import Document, Rejected
from luopan.corpus.token_arrays import read_tokens
from luopan.corpus.verdict import Finding
from luopan.corpus.words import Reading

COLUMNS = pa.schema([("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("meta", pa.string())])

ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str)  # json.dumps would make one for each call


class DocumentBatch:
    """Documents as an Arrow record batch with the columns `id, text, source, meta` (meta is JSON); immutable."""

    def __init__(self, arrow: pa.RecordBatch, readings: Sequence[Reading | None] | None = None) -> None:
        assert arrow.schema.names == COLUMNS.names, arrow.schema.names
        self.arrow = arrow
        self._readings: list[Reading | None] = list(readings) if readings is not None else [None] * arrow.num_rows

    @classmethod
    def of(cls, documents: Iterable[Document]) -> DocumentBatch:
        """A batch of the given documents."""
        documents = list(documents)
        columns = [
            [document.id for document in documents],
            [document.text for document in documents],
            [document.source for document in documents],
            [to_json(document.meta) for document in documents],
        ]
        arrays = [pa.array(column, pa.string()) for column in columns]
        return cls(pa.RecordBatch.from_arrays(arrays, schema=COLUMNS))

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """[N] the documents' names."""
        return self.arrow.column("id").to_pylist()

    @cached_property
    def texts(self) -> list[str]:
        """[N] the documents' texts."""
        return self.arrow.column("text").to_pylist()

    @cached_property
    def sources(self) -> list[str]:
        """[N] the names of the sources."""
        return self.arrow.column("source").to_pylist()

    @cached_property
    def metas(self) -> list[dict[str, Any]]:
        """[N] what is known of each document beside its text; not to be changed in place (see `with_meta`)."""
        return [json.loads(meta) for meta in self.arrow.column("meta").to_pylist()]

    def reading(self, row: int) -> Reading:
        """Words and lines of a text, computed once for all steps."""
        reading = self._readings[row]
        if reading is None:
            reading = self._readings[row] = Reading(self.texts[row])
        return reading

    @property
    def readings(self) -> list[Reading]:
        """[N] what the filters look at in each text."""
        return [self.reading(row) for row in range(len(self))]

    def read(self) -> list[Reading]:
        """The readings of all rows, their words read together: for a step that looks at the words of every text."""
        readings = self.readings
        unread = [reading for reading in readings if reading.arrays is None and "tokens" not in vars(reading)]
        for reading, arrays in zip(unread, read_tokens([reading.text for reading in unread])):
            reading.arrays = arrays
        return readings

    def documents(self) -> list[Document]:
        """The documents one by one."""
        return [Document(*row) for row in zip(self.ids, self.texts, self.sources, self.metas)]

    def keep(self, mask: Sequence[bool]) -> DocumentBatch:
        """The documents where `mask` [N] is true."""
        if all(mask):
            return self
        readings = [reading for reading, stays in zip(self._readings, mask) if stays]
        return DocumentBatch(self.arrow.filter(pa.array(mask, pa.bool_())), readings)

    def with_texts(self, texts: Sequence[str]) -> DocumentBatch:
        """The same documents with other texts [N]; readings of texts that stay are kept."""
        same = [old is new or old == new for old, new in zip(self.texts, texts)]
        if all(same):
            return self
        arrow = self.arrow.set_column(1, "text", pa.array(texts, pa.string()))
        return DocumentBatch(arrow, [reading if s else None for reading, s in zip(self._readings, same)])

    def with_meta(self, updates: Sequence[Mapping[str, Any]]) -> DocumentBatch:
        """The same documents with further meta values [N]; an empty mapping changes nothing."""
        if not any(updates):
            return self
        old = self.arrow.column("meta").to_pylist()
        metas = [to_json({**json.loads(meta), **more}) if more else meta for meta, more in zip(old, updates)]
        return DocumentBatch(self.arrow.set_column(3, "meta", pa.array(metas, pa.string())), self._readings)


@dataclass(frozen=True)
class Outcome:
    """What a step leaves, what it takes away, and further figures for its row of the report (names to counts)."""

    batch: DocumentBatch
    rejected: list[Rejected] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def judge(batch: DocumentBatch, step: str, rule: Callable[[int], Finding | None]) -> Outcome:
    """Rejects the rows for which `rule(row)` has a finding; the rejected document keeps its text."""
    findings = [rule(row) for row in range(len(batch))]
    if not any(findings):
        return Outcome(batch)
    rejected = [
        rejection(batch, row, step, finding.rule, value=float(finding.value), threshold=float(finding.threshold))
        for row, finding in enumerate(findings)
        if finding is not None
    ]
    return Outcome(batch.keep([finding is None for finding in findings]), rejected)


def rejection(
    batch: DocumentBatch,
    row: int,
    step: str,
    rule: str,
    *,
    value: float | None = None,
    threshold: float | None = None,
    detail: str = "",
    keep_text: bool = True,
) -> Rejected:
    """Row `row` as a rejected document. `keep_text=False` where the same text can be had elsewhere (a twin's)."""
    text, meta = batch.texts[row], batch.metas[row]
    return Rejected(
        id=batch.ids[row],
        source=batch.sources[row],
        step=step,
        rule=rule,
        value=value,
        threshold=threshold,
        detail=detail,
        where=place(batch.ids[row], meta),
        text=text if keep_text else None,
        bytes=len(text.encode("utf-8")),
        meta=meta,
    )


def place(id: str, meta: Mapping[str, Any]) -> str:
    """file:row of a document from the user's files, its id otherwise."""
    file, row = meta.get("file"), meta.get("row")
    if file is None:
        return id
    return f"{file}:{row}" if row is not None else str(file)


def to_json(meta: Mapping[str, Any]) -> str:
    """Meta values as they are stored: sorted, so that equal values give equal bytes."""
    return ENCODER.encode(dict(meta))
