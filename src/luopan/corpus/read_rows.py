"""What all readers share: a document out of a row, and a row or file that is set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.source_config import CodeSource, FileSource, HubSource

Readable = FileSource | HubSource | CodeSource
Rows = FileSource | HubSource
SHOWN_BYTES = 10_000  # of a bad row that are kept with the reason


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a file that is read: bytes of a .jsonl, row groups of a .parquet, [start, end).

    `size` is the file's when the part was planned, so that a file that was changed meanwhile is noticed.
    """

    start: int = 0
    end: int | None = None
    first_row: int = 1
    size: int | None = None


WHOLE = Part()


def wanted_columns(source: Rows) -> list[str]:
    """The columns that are read, each once."""
    names = [source.text_column, source.id_column, source.url_column, *source.meta_columns]
    return list(dict.fromkeys(name for name in names if name is not None))


def from_row(source: Rows, found: Found, row: Any, number: int) -> Document | Rejected:
    """The document that a row holds, or why it holds none."""
    if not isinstance(row, Mapping):
        return aside(source, found, "row", f"not an object but a {type(row).__name__}", row=number)
    for name in wanted_columns(source):
        if name not in row:
            return aside(source, found, "column", no_column(name, list(row), source), row=number)
    text = row[source.text_column]
    if not isinstance(text, str):
        held = "nothing (null)" if text is None else f"{type(text).__name__}, not text"
        return aside(source, found, "column", f"column {source.text_column!r} holds {held}", row=number)
    if len(text) > source.max_line_bytes:
        return too_long(source, found, len(text), row=number)
    if (at := half_pair(text)) is not None:
        return aside(source, found, "encoding", f"character {at} is half of a surrogate pair", row=number)
    own_name = row[source.id_column] if source.id_column else None
    meta = {name: row[name] for name in source.meta_columns}
    if source.url_column and row[source.url_column] is not None:
        meta["url"] = str(row[source.url_column])
    if source.text_format == "html":
        meta["format"] = "html"
    for key, value in (*meta.items(), (source.id_column, own_name)):
        if holds_half_pair(value):
            return aside(source, found, "encoding", f"column {key!r} holds half of a surrogate pair", row=number)
    return document(source, found, text, number, meta, name=own_name)


def half_pair(text: str) -> int | None:
    """Where the first half of a surrogate pair stands in `text` (it cannot be written as UTF-8), or None."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def holds_half_pair(value: Any) -> bool:
    """True if a string anywhere in `value` cannot be written as UTF-8."""
    if isinstance(value, str):
        return half_pair(value) is not None
    if isinstance(value, Mapping):
        return any(holds_half_pair(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(holds_half_pair(part) for part in value)
    return False


def document(
    source: Readable, found: Found, text: str, row: int | None, meta: dict[str, Any], name: Any = None
) -> Document:
    """A document with where it came from. `name` replaces file and row in the id."""
    origin: dict[str, Any] = {"file": found.name, **meta}
    if row is not None:
        origin["row"] = row
    if source.licence:
        origin["licence"] = source.licence
    id = place(source, found, row) if name is None else f"{source.name}/{name}"
    return Document(id=id, text=text, source=source.name, meta=origin)


def place(source: Readable, found: Found, row: int | None) -> str:
    """The id of a row or file: the same wherever the folder lies."""
    return f"{source.name}/{found.name}" + (f"#{row}" if row is not None else "")


def aside(
    source: Readable,
    found: Found,
    rule: str,
    detail: str,
    *,
    row: int | None = None,
    value: float | None = None,
    threshold: float | None = None,
    text: str | None = None,
    size: int | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Rejected:
    """A file or row that is set aside; `where` is the path as the user would open it, `size` its bytes if known."""
    mark = f":{row}" if row is not None else ""
    if size is None:
        size = len(text.encode("utf-8", "replace")) if text is not None else 0
    return Rejected(
        id=place(source, found, row),
        source=source.name,
        step="read",
        rule=rule,
        value=value,
        threshold=threshold,
        detail=printable_words(detail),
        where=f"{found.shown}{mark}",
        text=None if text is None else printable_words(text)[:SHOWN_BYTES],
        bytes=size,
        meta={"file": found.name, **({} if row is None else {"row": row}), **(meta or {})},
    )


def too_long(source: Readable, found: Found, size: int, *, row: int | None = None, text: str = "") -> Rejected:
    """A line, row, page or file that is longer than the source allows; `text` is its beginning."""
    limit = source.max_line_bytes
    detail = f"{size:,} bytes, where max_line_bytes allows {limit:,}"
    return aside(
        source, found, "max_line_bytes", detail, row=row, value=size, threshold=limit, text=text or None, size=size
    )


def printable_words(text: str) -> str:
    """`text` without what cannot be stored: halves of surrogate pairs."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def no_column(name: str, names: list[str], source: Rows) -> str:
    """What to say of a missing column, with the key that names it."""
    held = ", ".join(str(each) for each in names[:12]) or "none"
    keys = {source.text_column: "text_column", source.id_column: "id_column", source.url_column: "url_column"}
    return f"no column {name!r} (there are: {held}); name the right one with {keys.get(name, 'meta_columns')}"
