"""Web archives: the pages of .warc files (ISO 28500) as raw HTML, the texts of .wet files as they are.

Every answer of a server is a document, or is set aside with its record's number: errors and redirects (`status`),
pictures and the like (`content_type`). Requests and notes of the crawler are no documents and are passed over. After a
damaged record reading goes on at the next line that begins one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import CHUNK, open_binary
from luopan.corpus.read_html import decoded
from luopan.corpus.read_rows import Part, Rows, aside, document, holds_half_pair, too_long

HEADER_BYTES = 64 << 10  # of one line of a header
HEADER_LINES = 500
WANTED = ("response", "resource", "conversion")
HTML = ("text/html", "application/xhtml+xml")


class BadRecord(Exception):
    """A record that cannot be read; the words say why."""


@dataclass(frozen=True)
class Record:
    """A record of an archive. `body` is None where the record is longer than allowed; `fault` says what is wrong."""

    number: int  # from 1, all kinds of records counted
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    fault: str | None = None


def read_warc(source: Rows, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """The pages and texts of an archive."""
    with open_binary(found.path) as stream:
        for record in records(stream, source.max_line_bytes):
            if record.fault is not None:
                yield aside(source, found, "warc", record.fault, row=record.number, size=record.size)
            elif record.body is None:
                yield too_long(source, found, record.size, row=record.number)
            else:
                yield page(source, found, record, record.body)


def page(source: Rows, found: Found, record: Record, body: bytes) -> Document | Rejected:
    """The document that a record holds, or why it holds none."""
    url = record.headers.get("warc-target-uri", "").strip("<> ")
    meta: dict[str, Any] = {"url": url} if url else {}
    if date := record.headers.get("warc-date"):
        meta["date"] = date
    row, size = record.number, record.size
    kind, payload = record.headers.get("content-type", ""), body
    if record.headers.get("warc-type") == "response" and body.startswith(b"HTTP/"):
        try:
            status, headers, payload = answer(body, source.max_line_bytes)
        except BadRecord as error:
            return aside(source, found, "http", str(error), row=row, size=size, meta=meta)
        if status != 200:
            detail = f"the server answered {status}"
            return aside(source, found, "status", detail, row=row, value=status, threshold=200, size=size, meta=meta)
        kind = headers.get("content-type", "")
    kind, charset = content_type(kind, payload)
    if kind not in (*HTML, "text/plain"):
        return aside(source, found, "content_type", kind or "none is said", row=row, size=size, meta=meta)
    text, detail = decoded(payload, charset)
    if text is None:
        return aside(source, found, "encoding", detail, row=row, size=size, meta=meta)
    if holds_half_pair(meta):
        return aside(source, found, "warc", "the address is not UTF-8", row=row, size=size)
    return document(source, found, text, row, {**meta, **({"format": "html"} if kind in HTML else {})})


def records(stream: IO[bytes], max_bytes: int) -> Iterator[Record]:
    """The records of an archive that may hold documents, and those that are damaged."""
    number = 0
    line = b""
    while line := line or stream.readline(HEADER_BYTES):
        if not line.strip():
            line = b""
            continue
        number += 1
        if not line.startswith(b"WARC/"):
            size, line = skip_to_record(stream, line)
            yield Record(number, size, fault="no record begins here")
            continue
        line = b""
        try:
            headers = read_headers(stream)
            length = content_length(headers)
        except BadRecord as error:
            yield Record(number, 0, fault=str(error))
            continue
        wanted = headers.get("warc-type", "").lower() in WANTED
        body = stream.read(length) if wanted and length <= max_bytes else None
        read = skip(stream, length) if body is None else len(body)
        if read < length:
            yield Record(number, read, fault=f"the record is cut short: {read:,} of {length:,} bytes")
        elif wanted:
            yield Record(number, length, headers, body)


def read_headers(stream: IO[bytes]) -> dict[str, str]:
    """The header lines up to a blank line, names in lower case. BadRecord if there is no end to them."""
    headers: dict[str, str] = {}
    for _ in range(HEADER_LINES):
        line = stream.readline(HEADER_BYTES)
        if not line.strip():
            return headers
        if not line.endswith(b"\n"):
            break
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    raise BadRecord("the record's header has no end")


def content_length(headers: Mapping[str, str]) -> int:
    """The body's length. BadRecord if none is said."""
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise BadRecord(f"the record's Content-Length is {length[:40] or 'not said'}")
    return int(length)


def skip(stream: IO[bytes], size: int) -> int:
    """Reads `size` bytes and lets them go; how many there were."""
    left = size
    while left and (block := stream.read(min(CHUNK, left))):
        left -= len(block)
    return size - left


def skip_to_record(stream: IO[bytes], line: bytes) -> tuple[int, bytes]:
    """(bytes up to the next line that begins a record, that line)."""
    size = len(line)
    while line := stream.readline(HEADER_BYTES):
        if line.startswith(b"WARC/1"):
            break
        size += len(line)
    return size, line


def answer(body: bytes, max_bytes: int) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, payload) of a server's answer. BadRecord if it cannot be read."""
    ends = [(at, len(gap)) for gap in (b"\r\n\r\n", b"\n\n") if (at := body.find(gap)) >= 0]
    end, gap = min(ends, default=(len(body), 0))
    first, *lines = body[:end].decode("latin-1").splitlines() or [""]
    words = first.split()
    if len(words) < 2 or not (words[1].isascii() and words[1].isdigit()):
        raise BadRecord(f"not an answer of a web server: {first[:60]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    payload = body[end + gap :]
    if "chunked" in headers.get("transfer-encoding", "").lower():
        payload = joined_chunks(payload)
    return int(words[1][:9]), headers, unpacked(payload, headers.get("content-encoding", "").lower(), max_bytes)


def joined_chunks(payload: bytes) -> bytes:
    """The payload of a chunked answer; as it is where a crawler joined the chunks already."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = payload.find(b"\n", at, at + 1000)
        try:
            size = int(payload[at:end].split(b";")[0].strip() or b"?", 16) if end >= 0 else -1
        except ValueError:
            size = -1
        if size < 0 or end + 1 + size > len(payload):
            return payload if not parts else b"".join([*parts, payload[end + 1 :] if size > 0 else b""])
        if size == 0:
            return b"".join(parts)
        parts.append(payload[end + 1 : end + 1 + size])
        at = end + 1 + size
        at += 2 if payload[at : at + 2] == b"\r\n" else 1


def unpacked(payload: bytes, encoding: str, max_bytes: int) -> bytes:
    """The payload without its compression; as it is where a crawler unpacked it already."""
    if encoding in ("", "identity", "none"):
        return payload
    if encoding in ("gzip", "x-gzip") and not payload.startswith(b"\x1f\x8b"):
        return payload
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadRecord(f"the page is packed as {encoding[:40]!r}, which is not read")
    for window in (47, -15):  # gzip or zlib by its header; some servers send deflate without one
        try:
            unpacker = zlib.decompressobj(window)
            text = unpacker.decompress(payload, max_bytes + 1)
        except zlib.error:
            continue
        if len(text) > max_bytes:
            raise BadRecord(f"the page unpacks to more than {max_bytes:,} bytes")
        return text
    raise BadRecord("the page's compression is damaged")


def content_type(said: str, payload: bytes) -> tuple[str, str | None]:
    """(kind, charset or None); where nothing is said, the page's beginning tells."""
    kind, _, rest = said.partition(";")
    kind = kind.strip().lower()
    charset = next(
        (value.strip("\"' ") for name, _, value in (part.partition("=") for part in rest.split(";"))
         if name.strip().lower() == "charset"),
        None,
    )  # fmt: skip
    if not kind and any(mark in payload[:1024].lower() for mark in (b"<!doctype html", b"<html")):
        kind = "text/html"
    return kind, charset
