"""The manifest that makes a folder an artifact: what it is, what it was made from, and the checksum of every file.

The pipeline writes one for every finished stage and follows `inputs` back to the raw data. `identity` says what was
asked for (spec, inputs, code version); `content` says what came out, and is what a later stage's identity builds on.

Files that differ between two equal runs (timings, samples, pages) are checksummed but left out of `content`.
Checkpoints carry a manifest of their own and are not listed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from luopan.artifacts.files import atomic_write_text, mend_os_errors, sha256_file, stable_hash
from luopan.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
UNLISTED = ("checkpoints/*", ".*", "*/.*", "*.tmp")
VOLATILE = ("metrics.jsonl", "samples.md", "*.log", "*.html")


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    bytes: int


class InputRecord(BaseModel):
    """An artifact that another was made from; `path` is for the reader, `content` is what counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    identity: str
    content: str


class Manifest(BaseModel):
    """What `manifest.json` holds. `seconds` is the time it took to make, `created` is UTC in ISO 8601."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    name: str
    identity: str
    inputs: dict[str, InputRecord] = {}
    spec: dict[str, Any] = {}
    versions: dict[str, str] = {}
    files: dict[str, FileRecord] = {}
    metrics: dict[str, Any] = {}
    seconds: float = 0.0
    created: str = ""
    content: str = ""


def record_files(folder: Path, *, unlisted: Iterable[str] = UNLISTED) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file under `folder` (POSIX paths relative to it), the manifest itself excepted."""
    folder = Path(folder)
    patterns = tuple(unlisted)
    records: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if not path.is_file() or relative == MANIFEST_NAME or matches(relative, patterns):
            continue
        records[relative] = FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)
    return records


def content_hash(files: Mapping[str, FileRecord], *, volatile: Iterable[str] = VOLATILE) -> str:
    """One hash over the files that two equal runs share."""
    patterns = tuple(volatile)
    return stable_hash({name: record.sha256 for name, record in files.items() if not matches(name, patterns)})


def matches(relative: str, patterns: Iterable[str]) -> bool:
    """Whether a relative path, or its last part, matches one of the shell-like patterns."""
    return any(fnmatch(relative, pattern) or fnmatch(PurePosixPath(relative).name, pattern) for pattern in patterns)


def build_manifest(
    folder: Path,
    *,
    kind: str,
    name: str,
    identity: str,
    inputs: Mapping[str, InputRecord] | None = None,
    spec: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
    unlisted: Iterable[str] = UNLISTED,
    volatile: Iterable[str] = VOLATILE,
) -> Manifest:
    """A manifest of what `folder` holds now: checksums, content hash and time of creation are worked out here."""
    files = record_files(folder, unlisted=unlisted)
    return Manifest(
        kind=kind,
        name=name,
        identity=identity,
        inputs=dict(inputs or {}),
        spec=dict(spec or {}),
        versions=dict(versions or {}),
        files=files,
        metrics=dict(metrics or {}),
        seconds=seconds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        content=content_hash(files, volatile=volatile),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, the last file of a finished folder."""
    atomic_write_text(Path(folder) / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`; raises `ArtifactError` where there is none or it is not one of ours."""
    path = Path(folder) / MANIFEST_NAME
    try:
        with mend_os_errors(path):
            return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            "no manifest.json here: this is not a finished artifact",
            where=folder,
            hint="Give the folder of a finished stage, such as runs/quickstart/sft.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(
            f"the manifest cannot be read: {place}: {first['msg']}",
            where=path,
            hint="The file is damaged or from another version; run that stage again with --fresh.",
        ) from None


def verify(folder: Path, *, checksums: bool = True) -> Manifest:
    """Check that every file of the manifest is there, of the right size and (unless told not to) the right bytes.

    Returns the manifest; raises `ArtifactError` that names what is missing or damaged. Files that the manifest does
    not list are nobody's business here.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    wrong = differences(folder, manifest.files, checksums=checksums)
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ArtifactError(
            f"the artifact is not whole: {shown}",
            where=folder,
            hint=f"Make it again: luopan run RECIPE --fresh {manifest.name}",
        )
    return manifest


def differences(folder: Path, files: Mapping[str, FileRecord], *, checksums: bool = True) -> list[str]:
    """What is missing or changed in `folder` against `files`, one phrase each."""
    wrong: list[str] = []
    for name, record in files.items():
        path = folder / name
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            wrong.append(f"{name} points out of the folder")
        elif not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != record.bytes:
            wrong.append(f"{name} has {path.stat().st_size} bytes, not {record.bytes}")
        elif checksums and sha256_file(path) != record.sha256:
            wrong.append(f"{name} has other bytes than were written (checksum differs)")
    return wrong


class Artifact:
    """A handle on a finished folder. Nothing is read until it is asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r})"

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, read once."""
        return read_manifest(self.path)

    @property
    def model_path(self) -> Path:
        """The Hugging Face model folder in it."""
        return self.file("model")

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer folder: `tokenizer/`, or the model folder, which carries a copy."""
        own = self.path / "tokenizer"
        return own if own.is_dir() else self.file("model")

    def file(self, name: str) -> Path:
        """The path of a file or folder inside; `ArtifactError` if it is not there."""
        path = self.path / name
        if not path.exists():
            raise ArtifactError(
                f"there is no {name!r} in this artifact",
                where=self.path,
                hint="Check that the recipe refers to a stage of the right kind, or make it again with --fresh.",
            )
        return path

    def as_input(self) -> InputRecord:
        """What a later artifact's manifest says about this one."""
        return InputRecord(path=str(self.path), identity=self.manifest.identity, content=self.manifest.content)
