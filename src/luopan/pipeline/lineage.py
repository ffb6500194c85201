"""Where a model came from: every artifact behind it, back to the data, with settings and versions.

Follows the inputs that each manifest records. A folder that was made again since, or is gone, is said to be so: the
record stays true, the folder no longer shows it. An exported folder carries its lineage in `luopan_lineage.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from luopan.artifacts import InputRecord, Manifest, read_manifest
from luopan.errors import ArtifactError

EXPORTED = "luopan_lineage.json"
State = Literal["as recorded", "made again since", "gone"]


@dataclass(frozen=True)
class LineageStep:
    """One artifact of a lineage; `inputs` maps a role to the name of the artifact that was read."""

    name: str
    kind: str
    path: str
    identity: str
    content: str
    state: State = "as recorded"
    created: str = ""
    seconds: float = 0.0
    inputs: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def lineage(path: Path | str) -> list[LineageStep]:
    """Every artifact that the one at `path` depends on, data first, itself last.

    `path` is a stage's folder, the model folder in it, or a folder made by `luopan export`. Raises ArtifactError where
    there is no manifest to follow.
    """
    folder = Path(path)
    if (folder / EXPORTED).is_file():
        kept = json.loads((folder / EXPORTED).read_text(encoding="utf-8"))
        return [LineageStep(**step) for step in kept]
    if not (folder / "manifest.json").is_file() and (folder.parent / "manifest.json").is_file():
        folder = folder.parent
    steps: dict[str, LineageStep] = {}
    _follow(folder.resolve(), None, steps)
    return list(steps.values())


def _follow(folder: Path, record: InputRecord | None, steps: dict[str, LineageStep]) -> str:
    """Adds the artifact in `folder` after all it was made of; returns its name."""
    key = f"{folder}@{record.identity}" if record else str(folder)
    if key in steps:
        return steps[key].name
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        if record is None:
            raise
        steps[key] = LineageStep(folder.name, "unknown", str(folder), record.identity, record.content, "gone")
        return folder.name
    if record is not None and manifest.identity != record.identity:
        state: State = "made again since"
        steps[key] = LineageStep(folder.name, manifest.kind, str(folder), record.identity, record.content, state)
        return folder.name
    inputs = {role: _follow((folder / one.path).resolve(), one, steps) for role, one in manifest.inputs.items()}
    steps[key] = _step(folder, manifest, inputs)
    return manifest.name


def _step(folder: Path, manifest: Manifest, inputs: dict[str, str]) -> LineageStep:
    return LineageStep(
        name=manifest.name,
        kind=manifest.kind,
        path=str(folder),
        identity=manifest.identity,
        content=manifest.content,
        created=manifest.created,
        seconds=manifest.seconds,
        inputs=inputs,
        spec=manifest.spec,
        versions=manifest.versions,
    )
