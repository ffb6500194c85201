"""Parquet: a document per row; only the columns that are needed are read, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.read_rows import Part, Rows, aside, from_row, no_column, wanted_columns
from luopan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 256  # that are read at once, fewer where they are large
BATCH_BYTES = 8 << 20
# What pyarrow raises on files that were changed: its own errors, and whatever Python makes of values that cannot be.
DAMAGE = (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, NotImplementedError)


@contextmanager
def naming_damage(found: Found) -> Iterator[None]:
    """What pyarrow raises on a damaged file becomes a DataError; what the system refuses stays an OSError."""
    import pyarrow as pa

    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise damaged(found, error) from error
    except (pa.ArrowException, *DAMAGE) as error:
        raise damaged(found, error) from error


def open_parquet(found: Found) -> pq.ParquetFile:
    """The file, opened so that column chunks are streamed instead of loaded whole. DataError if it is damaged."""
    import pyarrow.parquet as pq

    with naming_damage(found):
        return pq.ParquetFile(found.path, buffer_size=1 << 20, pre_buffer=False)


def read_parquet(source: Rows, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """One document per row of the row groups from `part.start` to `part.end`."""
    with open_parquet(found) as file, naming_damage(found):
        names = file.schema_arrow.names
        wanted = wanted_columns(source)
        for name in wanted:
            if name not in names:
                yield aside(source, found, "column", no_column(name, names, source), size=found.size)
                return
            if names.count(name) > 1:
                yield aside(source, found, "column", f"two columns are called {name!r}", size=found.size)
                return
        number = part.first_row
        for group in range(part.start, file.num_row_groups if part.end is None else part.end):
            rows = rows_at_once(file, group)
            for batch in file.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False):
                for values in rows_of(batch):
                    if isinstance(values, str):
                        yield aside(source, found, "encoding", values, row=number)
                    else:
                        yield from_row(source, found, values, number)
                    number += 1


def rows_at_once(file: pq.ParquetFile, group: int) -> int:
    """How many rows of a group make about `BATCH_BYTES`."""
    about = file.metadata.row_group(group)
    size = about.total_byte_size // max(1, about.num_rows)
    return max(1, min(ROWS, BATCH_BYTES // max(1, size)))


def rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows as dictionaries; where a value cannot be, what is wrong with it. Parquet does not check its texts."""
    try:
        yield from batch.to_pylist()
        return
    except (UnicodeDecodeError, *DAMAGE):
        pass
    for row in range(batch.num_rows):
        values: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns):
            try:
                values[name] = column[row].as_py()
            except DAMAGE as error:  # UnicodeDecodeError is a ValueError
                reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error).split("\n")[0]
                yield f"column {name!r} cannot be read: {reason}"
                break
        else:
            yield values


def damaged(found: Found, error: BaseException) -> DataError:
    lines = str(error).strip().splitlines()
    return DataError(lines[0] if lines else type(error).__name__, where=found.shown, hint="Get the file again.")
