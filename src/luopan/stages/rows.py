"""Rows of the user's chat and preference data: files (JSON lines, JSON, CSV, parquet), folders of them, Hugging Face
datasets; each row with its place.

A line that is no JSON object is set aside with its number and its fault, and is counted; the rest is used.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luopan.corpus.lines import numbered_lines, open_binary
from luopan.corpus.read_hub import open_dataset
from luopan.corpus.source_config import HubSource
from luopan.errors import DataError
from luopan.recipe.parts import RowSource


@dataclass(frozen=True)
class Row:
    """A row, or what is wrong with it."""

    where: str
    values: dict[str, Any] | None
    fault: str = ""


KINDS = (".jsonl", ".parquet", ".json", ".csv")


def read_source(source: RowSource) -> Iterator[Row]:
    """The rows of a source in order, columns renamed; of a `fraction` those that a hash of their place chooses."""
    rows = read_dataset(source) if source.dataset is not None else read_rows(Path(str(source.path)))
    if source.fraction is not None:
        rows = (row for number, row in enumerate(rows) if _chosen(source, number, source.fraction))
    unseen = set(source.columns)
    for row in islice(rows, source.examples):
        if row.values is None or not source.columns:
            yield row
            continue
        unseen -= set(row.values)
        kept = {name: value for name, value in row.values.items() if name not in source.columns.values()}
        yield Row(row.where, {source.columns.get(name, name): value for name, value in kept.items()}, row.fault)
    if unseen:
        raise DataError(f"columns names {', '.join(sorted(unseen))}, which no row has", where=source.name)


def _chosen(source: RowSource, number: int, fraction: float) -> bool:
    digest = hashlib.blake2b(f"{source.name} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def without_nulls(value: Any) -> Any:
    """The value without the nulls that Arrow fills into objects: rows of one column have all keys of any of them."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def read_dataset(source: RowSource) -> Iterator[Row]:
    """The rows of a Hugging Face dataset. DataError where it cannot be read, also in the middle."""
    found = HubSource(
        dataset=str(source.dataset), config=source.config, split=source.split or "train", revision=source.revision
    )
    number = 0
    try:
        for number, values in enumerate(open_dataset(found), start=1):
            yield Row(f"{found.origin}:{number}", without_nulls(dict(values)))
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        said = f"reading stopped behind row {number}: {words}"
        raise DataError(said, where=found.origin, hint="Run it again.") from error
    if not number:
        raise DataError("the dataset has no rows", where=found.origin)


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a file, or of the files of a folder, in order.

    DataError where the file is missing, empty or of an unknown kind.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and set(KINDS) & set(file.suffixes))
        if not files:
            raise DataError("holds no file of chat data", where=path, hint=f"Known are {', '.join(KINDS)}.")
        for file in files:
            yield from read_rows(file)
        return
    if not path.is_file():
        raise DataError("no such file", where=path, hint="Give the path of a .jsonl or .parquet file.")
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix in KINDS), None)
    if kind is None:
        ending = path.suffix or "a file without ending"
        raise DataError(f"cannot read {ending}", where=path, hint="Use .jsonl[.gz|.zst], .json, .csv or .parquet.")
    readers = {".jsonl": _jsonl, ".parquet": _parquet, ".json": _json, ".csv": _csv}
    empty = True
    for row in readers[kind](path):
        empty = False
        yield row
    if empty:
        raise DataError("the file has no rows", where=path)


def _json(path: Path) -> Iterator[Row]:
    """A list of objects, in one piece; or an object a line, which many programs write under this ending too."""
    try:
        with open_binary(path) as stream:
            value = json.loads(stream.read())
    except (ValueError, RecursionError) as error:
        if _begins_with_object(path):
            yield from _jsonl(path)
            return
        raise DataError(f"not JSON: {error}", where=path) from error
    if isinstance(value, dict):
        value = [value]  # lines, of which there is one
    if not isinstance(value, list):
        raise DataError(f"is not a list of objects but a {type(value).__name__}", where=path, hint="Or is it .jsonl?")
    for number, item in enumerate(value, start=1):
        if isinstance(item, dict):
            yield Row(f"{path}:{number}", item)
        else:
            yield Row(f"{path}:{number}", None, f"not an object but a {type(item).__name__}")


def _begins_with_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(next(line for _, _, line in numbered_lines(path))), dict)
    except (ValueError, RecursionError, StopIteration):
        return False


def _csv(path: Path) -> Iterator[Row]:
    """Every value is text: an answer of 007, 1.0 or NA is what it says, not a number and not nothing."""
    hint = "Is it comma-separated, in UTF-8, with a header?"
    csv.field_size_limit(2**31 - 1)
    number = 0
    try:
        with open_binary(path) as stream:
            # Line by line, so that a byte that is no UTF-8 is told with its row.
            lines = (line.decode("utf-8" if number else "utf-8-sig") for number, line in enumerate(stream))
            reader = filter(None, csv.reader(lines, strict=True))
            names = [name or f"column {place}" for place, name in enumerate(next(reader, []), start=1)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"the header names {', '.join(twice)} twice", where=path, hint=hint)
            for values in reader:
                number += 1
                where = f"{path}:{number}"
                if len(values) != len(names):
                    yield Row(where, None, f"{len(values)} values, the header has {len(names)} names")
                else:
                    yield Row(where, {name: value or None for name, value in zip(names, values, strict=True)})
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"row {number + 1}: {error}", where=path, hint=hint) from error


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
                    yield Row(f"{path}:{number}", without_nulls(value))
    except pa.ArrowException as error:
        raise DataError(str(error).splitlines()[0], where=path, hint="Is it a whole parquet file?") from error
