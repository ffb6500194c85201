"""Folders that exist whole or not at all: manifests, checksums, atomic writes, locks, disk checks."""

from luopan.artifacts.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    ensure_free_space,
    fsync_tree,
    mend_os_errors,
    plain,
    recover_folder,
    replace_folder,
    sha256_file,
    stable_hash,
)
from luopan.artifacts.lock import FolderLock
from luopan.artifacts.manifest import (
    Artifact,
    FileRecord,
    InputRecord,
    Manifest,
    build_manifest,
    read_manifest,
    verify,
    write_manifest,
)
from luopan.artifacts.versions import versions

__all__ = [
    "Artifact",
    "FileRecord",
    "FolderLock",
    "InputRecord",
    "Manifest",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "build_manifest",
    "ensure_free_space",
    "fsync_tree",
    "mend_os_errors",
    "plain",
    "read_manifest",
    "recover_folder",
    "replace_folder",
    "sha256_file",
    "stable_hash",
    "verify",
    "versions",
    "write_manifest",
]
