"""CSV and tab-separated files with a line of column names: a document per row, in flat memory.

Rows are named by the line on which they begin. A quote that never closes would take in the rest of the file; that is
noticed at the file's end or at `max_line_bytes`, and the rest is set aside as one piece, with the line of the quote.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import CHUNK, lines_of, open_binary
from luopan.corpus.read_rows import Part, Rows, aside, from_row, half_pair, no_column, wanted_columns

FIELD_LIMIT = 2**31 - 1  # Python's own of 131,072 is too small for documents; `Feed` keeps count instead


class RowTooLong(Exception):
    """The lines of a row came to more bytes than allowed."""


class Feed:
    """Lines as text for the csv module. Bytes that are no UTF-8 come out as halves of surrogate pairs, to be found in
    the row that holds them."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self.lines = lines_of(stream, max_bytes)
        self.max_bytes = max_bytes
        self.number = 0  # of the line that was given last
        self.held = 0  # bytes of the row that is being read

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number = line.number
        self.held += line.length + 1
        if not line.whole or self.held > self.max_bytes:
            raise RowTooLong
        return line.data.decode("utf-8", "surrogateescape") + "\n"


def read_csv(source: Rows, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """One document per row below the line of column names."""
    csv.field_size_limit(FIELD_LIMIT)
    with open_binary(found.path) as stream:
        feed = Feed(stream, source.max_line_bytes)
        rows = csv.reader(feed, delimiter="\t" if found.format == ".tsv" else ",", strict=True)
        names: list[str] | None = None
        while True:
            start, feed.held = feed.number + 1, 0
            try:
                fields = next(rows, None)
            except RowTooLong:
                detail = "the row is longer than max_line_bytes, or its quote never closes; the rest is not read"
                rest = feed.held + count_rest(stream)
                yield aside(source, found, "max_line_bytes", detail, row=start, value=rest,
                            threshold=source.max_line_bytes, size=rest)  # fmt: skip
                return
            except csv.Error as error:
                ended = "end of data" in str(error)
                detail = "a quote never closes; the rest of the file is not read" if ended else str(error)
                yield aside(source, found, "csv", detail, row=start, size=feed.held)
                if names is None:
                    return
                continue
            if fields is None:
                return
            if not fields:  # a blank line
                continue
            if names is None:
                names = fields
                if (fault := header_fault(source, names)) is not None:
                    yield aside(source, found, "column", fault, size=found.size)
                    return
            else:
                yield from_fields(source, found, names, fields, start, feed.held)


def from_fields(
    source: Rows, found: Found, names: list[str], fields: list[str], row: int, size: int
) -> Document | Rejected:
    """The document of a row's fields, or why there is none."""
    if len(fields) != len(names):
        detail = f"{len(fields)} fields, where the first line names {len(names)} columns"
        return aside(source, found, "csv", detail, row=row, text=",".join(fields), size=size)
    values = dict(zip(names, fields))
    for name in wanted_columns(source):
        if "\0" in values[name]:
            return aside(source, found, "binary", f"a zero byte in column {name!r}", row=row, size=size)
        if half_pair(values[name]) is not None:
            return aside(source, found, "encoding", f"column {name!r} is not UTF-8", row=row, size=size)
    return from_row(source, found, values, row)


def header_fault(source: Rows, names: list[str]) -> str | None:
    """What is wrong with the line of column names, or None."""
    for name in wanted_columns(source):
        if name not in names:
            return no_column(name, names, source)
        if names.count(name) > 1:
            return f"two columns are called {name!r}"
    return None


def count_rest(stream: IO[bytes]) -> int:
    """How many bytes are left in a stream; reads them."""
    size = 0
    while block := stream.read(CHUNK):
        size += len(block)
    return size
