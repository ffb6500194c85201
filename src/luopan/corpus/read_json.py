"""JSON: a row per line (.jsonl), or rows one after the other or in one list (.json), in flat memory.

A bad line of .jsonl costs that line alone. In .json there are no lines to go by, so what follows a fault is lost, and
said to be.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import CHUNK, Line, lines_of, open_binary
from luopan.corpus.read_rows import Part, Rows, aside, from_row, too_long

SPACE = re.compile(r"[ \t\r\n]*")


def read_jsonl(source: Rows, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """One JSON object per line; a line that cannot be used is set aside with its number."""
    with open_binary(found.path) as stream:
        if part.start:
            stream.seek(part.start)
        lines = lines_of(stream, source.max_line_bytes, start=part.start, end=part.end, number=part.first_row)
        for line in lines:
            if not line.whole:
                yield too_long(source, found, line.length, row=line.number, text=line.data.decode("utf-8", "replace"))
            elif line.data.strip():
                yield from_line(source, found, line)


def from_line(source: Rows, found: Found, line: Line) -> Document | Rejected:
    """The document of a line of JSON, or why there is none."""
    try:
        row = json.loads(line.data.decode("utf-8"))
    except UnicodeDecodeError as error:
        at = line.offset + error.start
        detail = f"byte {at} is not UTF-8 ({error.reason})"
        return aside(source, found, "encoding", detail, row=line.number, value=at, size=line.length)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        text = line.data.decode("utf-8", "replace")
        return aside(source, found, "json", reason, row=line.number, text=text, size=line.length)
    return from_row(source, found, row, line.number)


def read_json(source: Rows, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """The rows of a .json file: the objects of one list, or objects one after the other. Rows are counted from 1."""
    number = 0
    with open_binary(found.path) as stream:
        values = Values(stream, source.max_line_bytes)
        try:
            for value in values:
                number += 1
                yield from_row(source, found, value, number)
        except TooLong as error:
            yield too_long(source, found, error.size, row=number + 1)
        except UnicodeDecodeError as error:
            at = values.offset + error.start
            yield aside(source, found, "encoding", f"byte {at} is not UTF-8; the rest is not read", row=number + 1)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield aside(source, found, "json", f"{reason}; the rest of the file is not read", row=number + 1)


class TooLong(Exception):
    """A value of more than the bytes that are allowed."""

    def __init__(self, size: int) -> None:
        self.size = size


class Values:
    """The values of a stream of JSON text; the elements of a list that stands alone."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self.stream, self.max_bytes = stream, max_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text = ""
        self.at = 0
        self.offset = 0  # of the block that is decoded
        self.ended = False

    def __iter__(self) -> Iterator[Any]:
        listed = self.next_character() == "["
        if listed:
            self.at += 1
        while character := self.next_character():
            if listed and character == "]":
                self.at += 1
                if self.next_character():
                    raise ValueError("something stands after the list")
                return
            yield self.value()
            if listed and (following := self.next_character()) != "]":
                if following != ",":
                    raise ValueError("the list is not closed" if not following else "a comma is missing in the list")
                self.at += 1
        if listed:
            raise ValueError("the list is not closed")

    def more(self, size: int) -> bool:
        """Read on by `size` bytes; False at the end. What was used is let go."""
        if self.ended:
            return False
        block = self.stream.read(size)
        self.ended = not block
        self.text = self.text[self.at :] + self.decoder.decode(block, final=self.ended)
        self.offset += len(block)
        self.at = 0
        return not self.ended

    def next_character(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more(CHUNK):
                return ""

    def value(self) -> Any:
        """The value that begins here; reads on, twice as much each time, until it is whole."""
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
                self.more(CHUNK)  # a number at the end of what is held may go on
            except json.JSONDecodeError as error:
                held = len(self.text) - self.at
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - 16
                if not cut or self.ended:
                    raise
                if held > self.max_bytes:
                    raise TooLong(held) from error
                self.more(max(CHUNK, held))
