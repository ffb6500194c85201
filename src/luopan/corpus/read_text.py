"""Text files: one document each, or one for each `SEGMENT` of a file that is larger. UTF-8, or said why not."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import open_binary
from luopan.corpus.read_rows import Part, Readable, aside, document

SEGMENT = 8 << 20  # bytes of a text file that are read at once
ENCODING_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def read_text(source: Readable, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """A .txt or .md file. One with a byte that is no text gives no document at all: half a book is a trap."""
    with open_binary(found.path) as file:
        block = read_block(file)
        if len(block) < SEGMENT:  # nearly every file: read once
            fault = Faults().of(block, last=True)
            if fault is None:
                yield document(source, found, block.decode("utf-8-sig"), None, {})
                return
        else:
            fault = whole_fault(file, block)
    if fault is not None:
        rule, offset, detail = fault
        yield aside(source, found, rule, detail, value=float(offset), size=found.size)
        return
    with open_binary(found.path) as file:
        try:
            for number, text in enumerate(text_segments(file), 1):
                yield document(source, found, text, number, {})
        except UnicodeDecodeError as error:
            yield aside(source, found, "changed", f"the file was changed while it was read ({error.reason})")


def read_block(file: IO[bytes]) -> bytes:
    """`SEGMENT` bytes, or as many as there are (a compressed stream may give fewer at a time)."""
    blocks: list[bytes] = []
    missing = SEGMENT
    while missing and (block := file.read(missing)):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


class Faults:
    """Finds the first byte of a text that no UTF-8 text has; blocks are given one after the other."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.offset = 0

    def of(self, block: bytes, last: bool) -> tuple[str, int, str] | None:
        """(rule, byte offset, words), or None if the block is fine; `last`: nothing comes after it."""
        if self.offset == 0 and block[:2] in ENCODING_MARKS:
            name = ENCODING_MARKS[block[:2]]
            return "encoding", 0, f"{name} text: convert it to UTF-8 (iconv -f {name} -t UTF-8)"
        if (null := block.find(b"\0")) >= 0:
            return "binary", self.offset + null, f"a zero byte at byte {self.offset + null}: not a text file"
        pending = len(self.decoder.getstate()[0])
        try:
            self.decoder.decode(block)
        except UnicodeDecodeError as error:
            at = self.offset - pending + error.start
            return "encoding", at, f"byte {at} is not UTF-8 ({error.reason})"
        self.offset += len(block)
        if last and (pending := len(self.decoder.getstate()[0])):
            at = self.offset - pending
            return "encoding", at, f"byte {at} is not UTF-8 (the file ends inside a character)"
        return None


def whole_fault(file: IO[bytes], block: bytes) -> tuple[str, int, str] | None:
    """The first fault of a file that begins with `block` and goes on in `file`."""
    faults = Faults()
    while True:
        following = read_block(file)
        fault = faults.of(block, last=not following)
        if fault is not None or not following:
            return fault
        block = following


def text_segments(file: IO[bytes]) -> Iterator[str]:
    """The text of a file in pieces of about `SEGMENT` bytes that end at a blank line, a line end, or anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    block = read_block(file)
    while block:
        rest += decoder.decode(block)
        block = read_block(file)
        if block and len(rest) >= SEGMENT // 4:
            end = max(rest.rfind("\n\n") + 2, 0) if "\n\n" in rest else rest.rfind("\n") + 1
            end = end if end > len(rest) // 2 else len(rest)
            yield rest[:end]
            rest = rest[end:]
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest
