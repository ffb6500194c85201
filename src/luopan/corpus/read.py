"""Read the user's files as a stream of documents; what cannot be read is set aside with file, line and reason.

Text files become one document (several above `SEGMENT` bytes), rows of .jsonl and .parquet one each. Memory stays flat:
never more than one line, one batch of rows or one segment of a text is held. Text is UTF-8; other encodings are named
in the reason, not guessed at.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luopan.corpus.config import FileSource
from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import SUFFIXES, Found, find_files
from luopan.corpus.lines import numbered_lines
from luopan.errors import DataError

SEGMENT = 8 << 20  # bytes of a text file that are read at once
ROWS = 256  # of a parquet file that are read at once
ENCODING_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def read_files(source: FileSource) -> Iterator[Document | Rejected]:
    """Every document of `source` in a fixed order, and what was set aside where it stood.

    DataError if the path does not exist or holds no file of a kind that is read. Ids are `name/file`, with `#row` for
    rows (or the id column's value), the same wherever the folder lies.
    """
    for found in find_files(source.path):
        if not found.suffix:
            yield aside(source, found, "kind", f"not one of {' '.join(SUFFIXES)}")
            continue
        reader = {".txt": read_text, ".md": read_text, ".parquet": read_parquet}.get(found.suffix, read_jsonl)
        try:
            yield from reader(source, found)
        except OSError as error:
            yield aside(source, found, "unreadable", error.strerror or str(error))
        except DataError as error:
            yield aside(source, found, "damaged", error.message)


def read_text(source: FileSource, found: Found) -> Iterator[Document | Rejected]:
    """A .txt or .md file: one document, or one for each `SEGMENT` of a file that is larger."""
    fault = text_fault(found.path)
    if fault is not None:
        rule, offset, detail = fault
        yield aside(source, found, rule, detail, value=float(offset))
        return
    segments = text_segments(found.path)
    first = next(segments, "")
    second = next(segments, None)
    if second is None:
        yield document(source, found, first, None, {})
        return
    for number, text in enumerate([first, second], 1):
        yield document(source, found, text, number, {})
    for number, text in enumerate(segments, 3):
        yield document(source, found, text, number, {})


def text_fault(path: Path) -> tuple[str, int, str] | None:
    """(rule, byte offset, words) of the first byte that no UTF-8 text has, or None. Reads the file once."""
    offset = 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        while block := file.read(SEGMENT):
            if offset == 0 and block[:2] in ENCODING_MARKS:
                name = ENCODING_MARKS[block[:2]]
                return "encoding", 0, f"{name} text: convert it to UTF-8 (iconv -f {name} -t UTF-8)"
            if (null := block.find(b"\0")) >= 0:
                return "binary", offset + null, f"a zero byte at byte {offset + null}: not a text file"
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                at = offset - pending + error.start
                return "encoding", at, f"byte {at} is not UTF-8 ({error.reason})"
            offset += len(block)
    if pending := len(decoder.getstate()[0]):
        return "encoding", offset - pending, f"byte {offset - pending} is not UTF-8 (the file ends inside a character)"
    return None


def text_segments(path: Path) -> Iterator[str]:
    """The text of a file in pieces of about `SEGMENT` bytes that end at a blank line, a line end, or anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    with open(path, "rb") as file:
        while block := file.read(SEGMENT):
            rest += decoder.decode(block)
            if file.peek(1) and len(rest) >= SEGMENT // 4:
                end = max(rest.rfind("\n\n") + 2, 0) if "\n\n" in rest else rest.rfind("\n") + 1
                end = end if end > len(rest) // 2 else len(rest)
                yield rest[:end]
                rest = rest[end:]
    if rest:
        yield rest


def read_jsonl(source: FileSource, found: Found) -> Iterator[Document | Rejected]:
    """One JSON object per line; a line that cannot be used is set aside with its number."""
    for number, offset, line in numbered_lines(found.path):
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            at = offset + error.start
            yield aside(source, found, "encoding", f"byte {at} is not UTF-8 ({error.reason})", row=number, value=at)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield aside(source, found, "json", reason, row=number, text=line.decode("utf-8", "replace"))
        else:
            yield from_row(source, found, row, number)


def read_parquet(source: FileSource, found: Found) -> Iterator[Document | Rejected]:
    """One document per row; only the columns that are needed are read."""
    try:
        with pq.ParquetFile(found.path) as file:
            names = file.schema_arrow.names
            wanted = [source.text_column, *filter(None, [source.id_column]), *source.meta_columns]
            missing = [name for name in wanted if name not in names]
            if missing:
                yield aside(source, found, "column", no_column(missing[0], names))
                return
            number = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=list(dict.fromkeys(wanted))):
                for row in batch.to_pylist():
                    number += 1
                    yield from_row(source, found, row, number)
    except pa.ArrowException as error:
        raise DataError(str(error).splitlines()[0], where=found.path) from error


def from_row(source: FileSource, found: Found, row: Any, number: int) -> Document | Rejected:
    """The document that a row holds, or why it holds none."""
    if not isinstance(row, dict):
        return aside(source, found, "row", f"not an object but a {type(row).__name__}", row=number)
    wanted = [source.text_column, *filter(None, [source.id_column]), *source.meta_columns]
    for name in wanted:
        if name not in row:
            return aside(source, found, "column", no_column(name, list(row)), row=number)
    text = row[source.text_column]
    if not isinstance(text, str):
        detail = f"column {source.text_column!r} holds {type(text).__name__}, not text"
        return aside(source, found, "column", detail, row=number)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return aside(source, found, "encoding", f"character {error.start} is half of a surrogate pair", row=number)
    meta = {name: row[name] for name in source.meta_columns}
    own_name = row[source.id_column] if source.id_column else None
    return document(source, found, text, number, meta, name=own_name)


def document(
    source: FileSource, found: Found, text: str, row: int | None, meta: dict[str, Any], name: Any = None
) -> Document:
    origin: dict[str, Any] = {"file": found.name, **meta}
    if row is not None:
        origin["row"] = row
    if source.licence:
        origin["licence"] = source.licence
    place = f"{source.name}/{found.name}" + (f"#{row}" if row is not None else "")
    return Document(id=place if name is None else f"{source.name}/{name}", text=text, source=source.name, meta=origin)


def aside(
    source: FileSource,
    found: Found,
    rule: str,
    detail: str,
    *,
    row: int | None = None,
    value: float | None = None,
    text: str | None = None,
) -> Rejected:
    """A file or row that is set aside; `where` is the path as the user would open it."""
    mark = f":{row}" if row is not None else ""
    size = len(text.encode("utf-8", "replace")) if text is not None else 0
    return Rejected(
        id=f"{source.name}/{found.name}" + (f"#{row}" if row is not None else ""),
        source=source.name,
        step="read",
        rule=rule,
        value=value,
        detail=detail,
        where=f"{found.path}{mark}",
        text=text,
        bytes=size,
        meta={"file": found.name},
    )


def no_column(name: str, names: list[str]) -> str:
    held = ", ".join(names[:12]) or "none"
    return f"no column {name!r} (there are: {held}); name the right one with text_column"
