"""Documents and rejected documents as parquet: columns `id, text, source, meta` (meta is JSON).

A corpus has a folder of numbered parts for each kind (`train/00000.parquet`, …), one part per split of the sources that
left something. Parts are written in row groups of a few megabytes and read back in order, in flat memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luopan.corpus.batch import COLUMNS as DOCUMENTS
from luopan.corpus.batch import to_json
from luopan.corpus.document import Document, Rejected
from luopan.errors import DataError

TRAIN, HELD_OUT, REJECTED_PARTS = "train", "held_out", "rejected"  # folders of a corpus
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
GROUP_BYTES = 4 << 20


class Writer:
    """Appends rows to a parquet file. Use as a context manager; the file is whole only after it is left.

    Rows wait until a row group is full, so that many small batches do not make many small groups.
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: str = "zstd") -> None:
        self.schema = schema
        self.path = path
        self.file = pq.ParquetWriter(path, schema, compression=compression)
        self.rows: list[dict[str, Any]] = []
        self.waiting: list[pa.RecordBatch] = []
        self.count = self.size = 0
        self.written = 0

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
        row = {"id": document.id, "text": document.text, "source": document.source, "meta": to_json(document.meta)}
        self.add(row, document.text)

    def rejected(self, rejected: Rejected) -> None:
        """Append a document that was left out."""
        row = {name: getattr(rejected, name) for name in self.schema.names}
        self.add({**row, "meta": to_json(rejected.meta)}, rejected.text)

    def add(self, row: dict[str, Any], text: str | None) -> None:
        self.rows.append(row)
        self.weigh(1, len(text or ""))

    def batch(self, batch: pa.RecordBatch) -> None:
        """Append rows that are in Arrow form already."""
        if batch.num_rows:
            self.settle()
            self.waiting.append(batch)
            self.weigh(batch.num_rows, batch.nbytes)

    def weigh(self, rows: int, size: int) -> None:
        self.count += rows
        self.size += size
        if self.count >= GROUP_ROWS or self.size >= GROUP_BYTES:
            self.flush()

    def settle(self) -> None:
        """Rows that came one by one become a batch, so that the order stays."""
        if self.rows:
            self.waiting.append(pa.RecordBatch.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def flush(self) -> None:
        """Write what waits as one row group."""
        self.settle()
        if self.waiting:
            self.file.write_table(pa.Table.from_batches(self.waiting, schema=self.schema))
            self.written += self.count
        self.waiting, self.count, self.size = [], 0, 0


def read_documents(path: Path | str) -> Iterator[Document]:
    """The documents of a folder of parts (or one part) that `curate` wrote, in order."""
    for row in rows(path, DOCUMENTS.names):
        yield Document(row["id"], row["text"], row["source"], json.loads(row["meta"]))


def read_texts(path: Path | str, source: str | None = None) -> Iterator[str]:
    """The texts alone, of one source or of all."""
    for row in rows(path, ["text", "source"]):
        if source is None or row["source"] == source:
            yield row["text"]


def read_rejected(path: Path | str) -> Iterator[Rejected]:
    """What was left out, in the order in which it was met."""
    for row in rows(path, REJECTED.names):
        yield Rejected(**{**row, "meta": json.loads(row["meta"])})


def rows(path: Path | str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file as dictionaries, a batch at a time. DataError if it is missing or damaged."""
    for batch in batches(path, columns):
        yield from batch.to_pylist()


def part_files(path: Path | str) -> list[Path]:
    """The parts of a folder in order, or the file itself. DataError if there is no such folder or file."""
    path = Path(path)
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    if not path.is_file():
        raise DataError("no such file or folder", where=path, hint="Run the curate stage first.")
    return [path]


def batches(path: Path | str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of a folder of parts or of a file. DataError if it is missing, damaged or has other columns."""
    for part in part_files(path):
        yield from file_batches(part, columns)


def file_batches(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"no column {', '.join(missing)}: not a file that curate wrote", where=path)
            for group in range(file.num_row_groups):  # a batch over several would not be bounded by their size
                yield from file.iter_batches(batch_size=1024, row_groups=[group], columns=columns)
    except FileNotFoundError as error:
        raise DataError("the file is gone", where=path, hint="Run the curate stage again.") from error
    except pa.ArrowException as error:
        raise DataError(f"damaged parquet file: {str(error).splitlines()[0]}", where=path) from error
