"""Read sources as a stream of documents; what cannot be read is set aside with file, row and reason.

Text files become one document (several above 8 MiB), web pages one of raw HTML, rows one each. Memory stays flat: never
more than one line, one page, one batch of rows or one segment of a text is held. Text is UTF-8; other encodings are
named in the reason, not guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import READS, Found, find_code, find_files
from luopan.corpus.read_code import read_code
from luopan.corpus.read_csv import read_csv
from luopan.corpus.read_html import read_html
from luopan.corpus.read_json import read_json, read_jsonl
from luopan.corpus.read_parquet import read_parquet
from luopan.corpus.read_rows import WHOLE, Part, Readable, aside
from luopan.corpus.read_text import read_text
from luopan.corpus.read_warc import read_warc
from luopan.corpus.source_config import CodeSource, FileSource
from luopan.errors import DataError

Reader = Callable[[Any, Found, Part], Iterator[Document | Rejected]]
READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".md": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".warc": read_warc,
    ".wet": read_warc,
    ".parquet": read_parquet,
}


def read_files(source: FileSource | CodeSource) -> Iterator[Document | Rejected]:
    """Every document of `source` in a fixed order, and what was set aside where it stood.

    DataError if the path does not exist or holds no file of a kind that is read. Ids are `name/file`, with `#row` for
    rows (or the id column's value), the same wherever the folder lies.
    """
    for found in files_of(source):
        yield from read_file(source, found)


def files_of(source: FileSource | CodeSource) -> list[Found]:
    """The files of a source, sorted by name. DataError if there is nothing to read."""
    if isinstance(source, CodeSource):
        return find_code(source.code, source.suffixes, source.exclude)
    return find_files(source.path)


def read_file(source: FileSource | CodeSource, found: Found, part: Part = WHOLE) -> Iterator[Document | Rejected]:
    """The documents of a file, or of a part of it. Whatever is wrong with the file becomes a rejection."""
    if not found.suffix:
        yield aside(source, found, "kind", f"not one of {READS}", size=found.size)
        return
    reader: Reader = read_code if isinstance(source, CodeSource) else READERS[found.format]
    last: int | None = None
    try:
        if found.path.exists() and not found.path.is_file():
            yield aside(source, found, "unreadable", "a pipe, device or socket, not a file")
            return
        if found.compressed and found.size == 0 and found.path.stat().st_size == 0:
            yield aside(source, found, "damaged", "the compressed file is empty")
            return
        if part.size is not None and (size := found.path.stat().st_size) != part.size:
            detail = f"the file has {size:,} bytes now, where it had {part.size:,} when the work was planned"
            yield aside(source, found, "changed", detail, row=part.first_row)
            return
        for item in reader(source, found, part):
            last = item.meta.get("row", last)
            yield item
    except FileNotFoundError:
        yield lost(source, found, "vanished", "the file was there when the work was planned", last)
    except OSError as error:
        yield lost(source, found, "unreadable", error.strerror or str(error), last)
    except DataError as error:
        yield lost(source, found, "damaged", error.message, last)


def lost(source: Readable, found: Found, rule: str, detail: str, last: int | None) -> Rejected:
    """A file of which nothing more can be read; says how far the reading came."""
    after = f" (after row {last})" if last is not None else ""
    return aside(source, found, rule, detail + after, size=found.size)
