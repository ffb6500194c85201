"""Lines of a plain, gzip or zstandard file, with their number and offset, in flat memory.

A compressed file that was cut short is an error here, where the libraries would end the stream without a word.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from luopan.errors import DataError

CHUNK = 1 << 20


def open_binary(path: Path) -> IO[bytes]:
    """The decompressed bytes of `path`, as a stream. Raises DataError while reading if the compression is damaged."""
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(Checked(gzip.GzipFile(path, "rb"), path), CHUNK)
    if path.name.lower().endswith(".zst"):
        return io.BufferedReader(ZstandardReader(open(path, "rb"), path), CHUNK)
    return open(path, "rb", CHUNK)


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, offset of its first byte, line without its end) of every line that is not blank."""
    offset = 0
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            start, offset = offset, offset + len(line)
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                start, line = 3, line[3:]
            line = line.rstrip(b"\r\n")
            if line.strip():
                yield number, start, line


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
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while not self.ready:
            self.compressed = self.compressed or self.stream.read(CHUNK // 8)
            if not self.compressed:
                if self.frame is not None:
                    raise damaged(self.path, "the last frame is cut short")
                return 0
            self.ready = self.decompress()
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
