"""Documents and rejected documents as parquet files: columns `id, text, source, meta` (meta is JSON).

One file each, written in row groups of a few megabytes, read back in flat memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luopan.corpus.document import Document, Rejected
from luopan.errors import DataError

DOCUMENTS = pa.schema([("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("meta", pa.string())])
REJECTED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("step", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
        ("where", pa.string()),
        ("bytes", pa.int64()),
        ("text", pa.string()),
        ("meta", pa.string()),
    ]
)
GROUP_ROWS = 4096
GROUP_CHARACTERS = 4 << 20


class Writer:
    """Appends rows to a parquet file. Use as a context manager; the file is whole only after it is left."""

    def __init__(self, path: Path, schema: pa.Schema, compression: str = "zstd") -> None:
        self.schema = schema
        self.file = pq.ParquetWriter(path, schema, compression=compression)
        self.rows: list[dict[str, Any]] = []
        self.characters = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.file.close()

    def document(self, document: Document) -> None:
        """Append a document."""
        self.add(
            {"id": document.id, "text": document.text, "source": document.source, "meta": to_json(document.meta)},
            document.text,
        )

    def rejected(self, rejected: Rejected) -> None:
        """Append a document that was left out."""
        row = {name: getattr(rejected, name) for name in self.schema.names}
        self.add({**row, "meta": to_json(rejected.meta)}, rejected.text)

    def add(self, row: dict[str, Any], text: str | None) -> None:
        self.rows.append(row)
        self.characters += len(text or "")
        if len(self.rows) >= GROUP_ROWS or self.characters >= GROUP_CHARACTERS:
            self.flush()

    def batch(self, batch: pa.RecordBatch) -> None:
        """Append rows that are in Arrow form already."""
        self.flush()
        if batch.num_rows:
            self.file.write_batch(batch)

    def flush(self) -> None:
        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.characters = [], 0


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a parquet file that `curate` wrote, in order."""
    for row in rows(path, DOCUMENTS.names):
        yield Document(row["id"], row["text"], row["source"], json.loads(row["meta"]))


def read_texts(path: Path, source: str | None = None) -> Iterator[str]:
    """The texts alone, of one source or of all."""
    for row in rows(path, ["text", "source"]):
        if source is None or row["source"] == source:
            yield row["text"]


def read_rejected(path: Path) -> Iterator[Rejected]:
    """What was left out, in the order in which it was met."""
    for row in rows(path, REJECTED.names):
        yield Rejected(**{**row, "meta": json.loads(row["meta"])})


def rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file as dictionaries, a batch at a time. DataError if it is missing or damaged."""
    for batch in batches(path, columns):
        yield from batch.to_pylist()


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of a parquet file. DataError if it is missing, damaged or has other columns."""
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"no column {', '.join(missing)}: not a file that curate wrote", where=path)
            yield from file.iter_batches(batch_size=1024, columns=columns)
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, hint="Run the curate stage first.") from error
    except pa.ArrowException as error:
        raise DataError(f"damaged parquet file: {str(error).splitlines()[0]}", where=path) from error


def to_json(meta: Mapping[str, Any]) -> str:
    return json.dumps(dict(meta), ensure_ascii=False, sort_keys=True, default=str)
