"""Units of work: the sources cut into parts of about equal size, the same whoever does the work and however many.

Many small files go together; a large .jsonl is cut between lines, a .parquet between row groups. Files that can only be
read from their beginning (compressed ones, .csv, web archives, long texts) are a unit each: give them in parts of some
hundred megabytes if many cores are to share them. Cutting a .jsonl reads it once, to count its lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import CHUNK
from luopan.corpus.packaged import check_packaged, read_packaged
from luopan.corpus.read import files_of, read_file
from luopan.corpus.read_hub import read_shard, shards_of
from luopan.corpus.read_parquet import open_parquet
from luopan.corpus.read_rows import WHOLE, Part
from luopan.corpus.source_config import HubSource, PackagedSource, SourceConfig
from luopan.errors import DataError

SPLIT_BYTES = 32 << 20
SPLIT_FILES = 4096  # at most so many small files together: opening one costs as much as reading some kilobytes


@dataclass(frozen=True)
class Split:
    """A unit of work; small, and can be sent to another process. `part` is of the only file where it is not WHOLE."""

    source: SourceConfig
    files: tuple[Found, ...] = ()
    part: Part = WHOLE
    shard: int = 0  # of a dataset
    shards: int = 1
    bytes: int = 0  # on disk, for progress; 0 where it is not known

    @property
    def label(self) -> str:
        """What is read, for a person."""
        if not self.files:
            return self.source.name + (f" {self.shard + 1}/{self.shards}" if self.shards > 1 else "")
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        row = f" from row {self.part.first_row}" if self.part.first_row > 1 else ""
        return f"{self.source.name}/{self.files[0].name}{more}{row}"


def plan_splits(
    sources: Sequence[SourceConfig],
    split_bytes: int = SPLIT_BYTES,
    note: Callable[[str], None] = lambda text: None,
) -> list[Split]:
    """The units of all sources in their order; reading them one after the other gives each source's documents in order.

    Depends on the files and `split_bytes` alone. `note` is told of optional packages that are left out as missing.
    DataError if a path, dataset or required package is missing, or if a path holds nothing that is read.
    """
    splits: list[Split] = []
    for source in sources:
        if isinstance(source, PackagedSource):
            try:
                check_packaged(source.packaged)
            except DataError as error:
                if not source.optional:
                    raise
                note(f"{source.packaged} was left out: {error.message}. {error.hint or ''}".strip())
            else:
                splits.append(Split(source))
        elif isinstance(source, HubSource):
            shards = shards_of(source)
            splits += [Split(source, shard=shard, shards=shards) for shard in range(shards)]
        else:
            splits += file_splits(source, files_of(source), split_bytes)
    return splits


def read_split(split: Split) -> Iterator[Document | Rejected]:
    """The documents of a unit, and what was set aside."""
    source = split.source
    if isinstance(source, PackagedSource):
        yield from read_packaged(source.packaged)
    elif isinstance(source, HubSource):
        yield from read_shard(source, split.shard, split.shards)
    else:
        for found in split.files:
            yield from read_file(source, found, split.part)


def file_splits(source: SourceConfig, files: Sequence[Found], split_bytes: int) -> Iterator[Split]:
    """Files grouped or cut to about `split_bytes`."""
    group: list[Found] = []
    size = 0
    for found in files:
        if group and (size + found.size > split_bytes or len(group) >= SPLIT_FILES):
            yield Split(source, tuple(group), bytes=size)
            group, size = [], 0
        if found.size > split_bytes and (parts := parts_of(found, split_bytes)):
            yield from (Split(source, (found,), part, bytes=held) for part, held in parts)
        else:
            group.append(found)
            size += found.size
    if group:
        yield Split(source, tuple(group), bytes=size)


def parts_of(found: Found, split_bytes: int) -> list[tuple[Part, int]]:
    """The parts of a large file with their bytes; none where it cannot be cut or (said when it is read) not be read."""
    try:
        if found.suffix == ".jsonl":
            return line_parts(found.path, split_bytes)
        if found.suffix == ".parquet":
            return group_parts(found, split_bytes)
    except (OSError, DataError):
        pass
    return []


def line_parts(path: Path, split_bytes: int) -> list[tuple[Part, int]]:
    """Byte ranges that end with a line, each with the number of its first line."""
    ranges: list[tuple[int, int, int]] = []
    start, first, row, offset = 0, 1, 1, 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(CHUNK):
            at = 0
            while start + split_bytes <= offset + len(block):
                end = block.find(b"\n", max(at, start + split_bytes - offset - 1)) + 1
                if end == 0:
                    break
                row += block.count(b"\n", at, end)
                at = end
                ranges.append((start, offset + end, first))
                start, first = offset + end, row
            row += block.count(b"\n", at)
            offset += len(block)
    if offset > start:
        ranges.append((start, offset, first))
    return [(Part(low, high, first, offset), high - low) for low, high, first in ranges]


def group_parts(found: Found, split_bytes: int) -> list[tuple[Part, int]]:
    """Ranges of row groups, each with the number of its first row; sizes are those of the unpacked columns."""
    parts: list[tuple[Part, int]] = []
    with open_parquet(found) as file:
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        share = found.size / max(1, sum(group.total_byte_size for group in groups))
        start, first, row, held = 0, 1, 1, 0
        for number, group in enumerate(groups):
            held += group.total_byte_size
            row += group.num_rows
            if held >= split_bytes or number == len(groups) - 1:
                parts.append((Part(start, number + 1, first, found.size), int(held * share)))
                start, first, held = number + 1, row, 0
    return parts
