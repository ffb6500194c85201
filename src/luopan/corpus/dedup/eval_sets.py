"""Rows of evaluation sets: the texts of the named columns, with file and row to point at.

Reads .jsonl, .json (a list of objects), .csv, .tsv (each plain, .gz or .zst) and .parquet. A row without any of the
columns, or with nothing in them, is no item; a file that cannot be read is an error, because text that is compared with
half a test set would pass for clean.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.corpus.dedup_config import DecontaminateConfig, EvalSet
from luopan.corpus.files import Found, find_files
from luopan.corpus.lines import numbered_lines, open_binary
from luopan.errors import DataError

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a set: where it stands, and the texts of its columns in order."""

    set: str
    where: str  # file:row; rows of tables count from 1
    texts: tuple[str, ...]


def set_files(given: EvalSet) -> list[Found]:
    """The files of a set, in order. DataError if there are none that can be read."""
    found = [file for file in find_files(given.path) if file.format in FORMATS]
    if not found:
        hint = f"Luopan reads evaluation sets from {' '.join(FORMATS)}."
        raise DataError("no evaluation set to read here", where=given.path, hint=hint)
    return found


def items(config: DecontaminateConfig) -> Iterator[Item]:
    """All items of all sets, in the order of the configuration. DataError if a column is in no row of its set."""
    for name, given in config.sets.items():
        missing, present, rows = set(given.columns), {}, 0
        for file in set_files(given):
            for number, row in numbered_rows(file):
                rows += 1
                texts: list[str] = []
                for column in given.columns:
                    there, value = look_up(row, column)
                    if there:
                        missing.discard(column)
                        texts.extend(strings(value))
                if any(text.strip() for text in texts):
                    yield Item(name, f"{file.name}:{number}", tuple(texts))
                if missing:
                    present.update(dict.fromkeys(row))
        if missing:
            raise DataError(
                f"the evaluation set {name} has no column {', '.join(sorted(missing))}",
                where=given.path,
                hint=f"There are: {', '.join(map(str, present))}." if rows else "It has no rows.",
            )


def look_up(row: Mapping[str, Any], column: str) -> tuple[bool, Any]:
    """(whether it is there, value) of a column, or of what a dotted name means inside of one."""
    if column in row:
        return True, row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def strings(value: Any) -> Iterator[str]:
    """The texts in a value: itself, those in a list, those of a mapping; numbers as written, nothing for null."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def numbered_rows(file: Found) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, row) of a file; lines of .jsonl by their line number, others from 1. DataError for what is broken."""
    path = file.path
    if file.format == ".jsonl":
        for number, _, line in numbered_lines(path):
            yield number, checked(parsed(line, path, number), path, number)
    elif file.format == ".json":
        with open_binary(path) as stream:
            rows = parsed(stream.read(), path, None)
        if not isinstance(rows, list):
            raise DataError("not a list of objects", where=path, hint="Write one object per line and call it .jsonl.")
        for number, row in enumerate(rows, 1):
            yield number, checked(row, path, number)
    elif file.format == ".parquet":
        yield from parquet_rows(path)
    else:
        yield from table_rows(path, "\t" if file.format == ".tsv" else ",")


def parsed(data: bytes, path: Path, number: int | None) -> Any:
    """JSON; DataError with file and line."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        where = path if number is None else f"{path}:{number}"
        raise DataError(f"not JSON: {error}", where=where, hint="Mend the evaluation set.") from error


def checked(row: Any, path: Path, number: int) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=f"{path}:{number}", hint="Each row needs named columns.")
    return row


def parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, row) of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"damaged parquet file: {reason}", where=path, hint="Get the file again.") from error


def table_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, row) of a .csv or .tsv file with a header."""
    with open_binary(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        try:
            for number, row in enumerate(reader, 1):
                yield number, {key: value for key, value in row.items() if key is not None}
        except (csv.Error, UnicodeDecodeError) as error:
            where = f"{path}:{reader.line_num}"
            raise DataError(f"cannot be read: {error}", where=where, hint="Mend the evaluation set.") from error
