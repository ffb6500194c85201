"""What a source holds at this moment, as a hash: a stage is done again when the user's files or a package change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from luopan.artifacts import sha256_file, stable_hash
from luopan.corpus.files import Found, list_files
from luopan.corpus.packaged import describe
from luopan.corpus.read import files_of
from luopan.corpus.source_config import HubSource, PackagedSource, SourceConfig

HASHED_BYTES = 256 << 20  # up to here contents are hashed (a second or so); above, sizes and times stand in for them


def fingerprint(sources: Sequence[SourceConfig], files: Sequence[str] = ()) -> str:
    """SHA-256 over names and contents of the files, and versions of the packages. DataError if a path is missing.

    Above `HASHED_BYTES` in all a file is told by size and time of change, so touching it counts as a change. A dataset
    on the hub is told by its name and revision alone: asking for its newest commit would need the network each time.
    `files` are further ones that a result depends on (lists of domains, evaluation sets).
    """
    states = [source_state(source) for source in sources]
    return stable_hash([*states, ["files", files_state(files)]] if files else states)


def source_state(source: SourceConfig) -> object:
    """What tells one state of a source from another, as plain values."""
    if isinstance(source, PackagedSource):
        return [source.packaged, describe(source.packaged)["version"]]
    if isinstance(source, HubSource):
        if not Path(source.dataset).expanduser().exists():
            return [source.name, source.dataset, source.config, source.split, source.revision]
        return [source.name, digest(list_files(source.dataset, ()))]
    return [source.name, digest(files_of(source))]


def files_state(paths: Sequence[str]) -> str:
    """The state of files (or folders, or globs) that are named one by one. DataError if one is missing."""
    return digest([found for path in paths for found in list_files(path, ())])


def digest(files: Sequence[Found]) -> str:
    """SHA-256 over names and contents, or sizes and times where there is much. DataError if a file is gone."""
    small = sum(file.size for file in files) <= HASHED_BYTES
    state = hashlib.sha256()
    for file in files:
        try:
            if file.path.exists() and not file.path.is_file():
                content = "not a file"  # a pipe would never end; set aside when it is read
            elif small:
                content = sha256_file(file.path)
            else:
                status = file.path.stat()
                content = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            content = f"unreadable: {error.strerror}"  # set aside when it is read
        state.update(f"{file.name}\0{content}\n".encode())
    return state.hexdigest()
