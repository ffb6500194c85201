"""What a source holds at this moment, as a hash: a stage is done again when the user's files or a package change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from luopan.artifacts import sha256_file, stable_hash
from luopan.corpus.config import PackagedSource, SourceConfig
from luopan.corpus.files import find_files
from luopan.corpus.packaged import describe

HASHED_BYTES = 256 << 20  # up to here contents are hashed (a second or so); above, sizes and times stand in for them


def fingerprint(sources: Sequence[SourceConfig]) -> str:
    """SHA-256 over names and contents of the files, and versions of the packages. DataError if a path is missing.

    Above `HASHED_BYTES` in all a file is told by size and time of change, so touching it counts as a change.
    """
    return stable_hash([source_state(source) for source in sources])


def source_state(source: SourceConfig) -> object:
    if isinstance(source, PackagedSource):
        return [source.packaged, describe(source.packaged)["version"]]
    files = find_files(source.path)
    small = sum(file.path.stat().st_size for file in files) <= HASHED_BYTES
    state = hashlib.sha256()
    for file in files:
        if small:
            content = sha256_file(file.path)
        else:
            status = file.path.stat()
            content = f"{status.st_size} {status.st_mtime_ns}"
        state.update(f"{file.name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return [source.name, state.hexdigest()]
