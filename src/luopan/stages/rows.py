"""Rows of the user's chat and preference files: JSON lines (plain, gzip, zstandard) or parquet, with file and line.

A line that is no JSON object is set aside with its number and its fault, and is counted; the rest is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luopan.corpus.lines import numbered_lines
from luopan.errors import DataError


@dataclass(frozen=True)
class Row:
    """A row, or what is wrong with it."""

    where: str
    values: dict[str, Any] | None
    fault: str = ""


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a file in order. DataError where the file is missing, empty or of an unknown kind."""
    if not path.is_file():
        raise DataError("no such file", where=path, hint="Give the path of a .jsonl or .parquet file.")
    kinds = {".jsonl", ".parquet"}
    found = kinds & set(path.suffixes)
    if not found:
        raise DataError(
            f"cannot read {path.suffix or 'a file without ending'}",
            where=path,
            hint="Use .jsonl[.gz|.zst] or .parquet.",
        )
    rows = _parquet(path) if ".parquet" in found else _jsonl(path)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError("the file has no rows", where=path)


def _jsonl(path: Path) -> Iterator[Row]:
    for number, _, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except UnicodeDecodeError as error:
            yield Row(where, None, f"not UTF-8 (byte {error.start} of the line)")
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield Row(where, None, f"not JSON: {reason}")
        else:
            if isinstance(value, dict):
                yield Row(where, value)
            else:
                yield Row(where, None, f"not an object but a {type(value).__name__}")


def _parquet(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:{number}", value)
    except pa.ArrowException as error:
        raise DataError(str(error).splitlines()[0], where=path, hint="Is it a whole parquet file?") from error
