"""Bytes and lines of a plain, gzip or zstandard file, with their number and offset, in flat memory.

A compressed file that was cut short is an error here, where the libraries would end the stream without a word. A line
that is longer than allowed is not held in memory: its beginning is given, and its length.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from luopan.errors import DataError

CHUNK = 1 << 20
SLICE = 512  # bytes of a zstandard stream, unpacked at once: at most 16 MiB come out (of 1 MiB it would be 32 GiB)
SHOWN = 400  # bytes of a line that is too long


class Line(NamedTuple):
    """A line without its end. `length` counts all bytes of it; `data` is cut where it is longer than allowed."""

    number: int  # from 1
    offset: int  # of its first byte, in the decompressed file
    data: bytes
    length: int

    @property
    def whole(self) -> bool:
        return len(self.data) == self.length


def open_binary(path: Path) -> IO[bytes]:
    """The decompressed bytes of `path`, as a stream. Raises DataError while reading if the compression is damaged."""
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(Checked(gzip.GzipFile(path, "rb"), path), CHUNK)
    if path.name.lower().endswith(".zst"):
        return io.BufferedReader(ZstandardReader(open(path, "rb"), path), CHUNK)
    return open(path, "rb", CHUNK)


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, offset of its first byte, line without its end) of every line that is not blank."""
    with open_binary(path) as stream:
        for line in lines_of(stream):
            if line.data.strip():
                yield line.number, line.offset, line.data


def lines_of(
    stream: IO[bytes], max_bytes: int | None = None, *, start: int = 0, end: int | None = None, number: int = 1
) -> Iterator[Line]:
    """The lines of `stream` from offset `start` (the beginning of line `number`, where the stream stands) to `end`.

    A line over `max_bytes` is read on to its end but not kept. A byte order mark at the file's start is left out.
    """
    offset = start
    limit = -1 if max_bytes is None else max_bytes + 2  # room for the line's end
    while end is None or offset < end:
        data = stream.readline(limit)
        if not data:
            return
        read = len(data)
        if read == limit and not data.endswith(b"\n"):
            while more := stream.readline(CHUNK):
                read += len(more)
                if more.endswith(b"\n"):
                    break
            yield Line(number, offset, data[:SHOWN], read)
        elif offset == 0 and data.startswith(b"\xef\xbb\xbf"):
            data = data[3:].rstrip(b"\r\n")
            yield Line(number, 3, data, len(data))
        else:
            data = data.rstrip(b"\r\n")
            yield Line(number, offset, data, len(data))
        offset += read
        number += 1


class Checked(io.RawIOBase):
    """A gzip stream whose damage is reported as the user's error."""

    def __init__(self, stream: gzip.GzipFile, path: Path) -> None:
        self.stream, self.path = stream, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        try:
            data = self.stream.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise damaged(self.path, str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


class ZstandardReader(io.RawIOBase):
    """Frames of a zstandard file, one after the other; the library's own reader ends silently in a cut frame."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.stream, self.path = stream, path
        self.frame: zstandard.ZstdDecompressionObj | None = None
        self.compressed = b""
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while not self.ready:
            self.compressed = self.compressed or self.stream.read(SLICE)
            if not self.compressed:
                if self.frame is not None:
                    raise damaged(self.path, "the last frame is cut short")
                return 0
            self.ready = memoryview(self.decompress())
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count

    def decompress(self) -> bytes:
        """What the bytes at hand give; keeps those that belong to the next frame."""
        if self.frame is None:
            self.frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            data = self.frame.decompress(self.compressed)
        except zstandard.ZstdError as error:
            raise damaged(self.path, str(error)) from error
        self.compressed = b""
        if self.frame.eof:
            self.compressed, self.frame = self.frame.unused_data, None
        return data

    def close(self) -> None:
        self.stream.close()
        super().close()


def damaged(path: Path, reason: str) -> DataError:
    return DataError(f"the compressed file is damaged: {reason}", where=path, hint="Get the file again.")
