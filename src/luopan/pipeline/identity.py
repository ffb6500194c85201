"""What makes a stage the stage it is: the hash over everything its result depends on.

Same identity, nothing to do. A stage's identity holds its kind, the version its code declares, its resolved spec, its
seed, the identities and contents of its inputs, and the fingerprint of what it reads outside the run. Keys that a spec
declares `INCIDENTAL` (how often to save, where to log) are left out: they change no result; of keys that it says are
`interchangeable` (how the rows of a step are cut) the product counts. `changes` says in words why an identity is
another one than that of the finished folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from luopan.artifacts import Artifact, FileRecord, InputRecord, Manifest, plain, stable_hash

_LINE = ("base_url", "api_key_env", "timeout", "patience", "concurrency")
Inputs = Mapping[str, tuple[Artifact, ...]]


@dataclass(frozen=True)
class Asked:
    """A stage as it is asked for now: all that its result depends on."""

    kind: str
    version: int
    spec: dict[str, Any]
    seed: int
    inputs: dict[str, InputRecord]
    fingerprint: str
    incidental: tuple[str, ...] = ()
    product: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Hexadecimal SHA-256."""
        inputs = {role: [record.identity, record.content] for role, record in self.inputs.items()}
        return stable_hash([self.kind, self.version, self.counted(self.spec), self.seed, inputs, self.fingerprint])

    def counted(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A spec without what changes no result; keys whose product alone matters as that product."""
        left_out = {*self.incidental, *self.product}
        kept = {key: without_lines(value) for key, value in spec.items() if key not in left_out}
        if self.product:
            kept[" x ".join(self.product)] = math.prod(spec.get(key) or 1 for key in self.product)
        return kept

    def facts(self) -> dict[str, Any]:
        """What the manifest's spec cannot say, kept beside it so that a later change can be named."""
        return {"stage_version": self.version, "seed": self.seed, "fingerprint": self.fingerprint}


def without_lines(value: Any) -> Any:
    """A key's value without where an endpoint is and how it is waited for: the same judge on another port is the same
    judge, and a run whose server has moved goes on."""
    if isinstance(value, Mapping):
        left_out = _LINE if "base_url" in value else ()
        return {key: without_lines(item) for key, item in value.items() if key not in left_out}
    return [without_lines(item) for item in value] if isinstance(value, list | tuple) else value


def stage_seed(seed: int, name: str) -> int:
    """A stage's own seed (31 bits), so that two stages of one kind do not draw the same numbers."""
    return int(stable_hash([seed, name])[:8], 16) & 0x7FFFFFFF


def asked(name: str, spec: Any, stage: Any, seed: int, inputs: Inputs) -> Asked:
    """The stage `name` as the recipe asks for it, with finished `inputs`."""
    fingerprint = getattr(stage, "fingerprint", None)
    return Asked(
        kind=spec.kind,
        version=stage.version,
        spec=plain(spec),
        seed=stage_seed(seed, name) if getattr(spec, "seed", None) is None else spec.seed,
        inputs=dict(input_records(inputs)),
        fingerprint=fingerprint(spec) if fingerprint else "",
        incidental=tuple(getattr(type(spec), "INCIDENTAL", ())),
        product=tuple(getattr(spec, "interchangeable", ())),
    )


def input_records(inputs: Inputs) -> Iterator[tuple[str, InputRecord]]:
    """Role → record; a role with several artifacts is numbered. Paths are relative to the stage's own folder, so that
    a run can be moved."""
    for role, artifacts in inputs.items():
        for index, artifact in enumerate(artifacts):
            key = role if len(artifacts) == 1 else f"{role}.{index}"
            yield key, artifact.as_input().model_copy(update={"path": f"../{artifact.path.name}"})


def payload_content(files: Mapping[str, FileRecord], payload: Sequence[str]) -> str | None:
    """The content hash over the files and folders that later stages depend on; None where nothing is declared."""
    if not payload:
        return None
    wanted = [PurePosixPath(item) for item in payload]
    chosen = {
        name: record.sha256
        for name, record in files.items()
        if any(item == PurePosixPath(name) or item in PurePosixPath(name).parents for item in wanted)
    }
    return stable_hash(chosen)


def changes(asked_for: Asked, manifest: Manifest, facts: Mapping[str, Any]) -> str:
    """Why the finished stage is out of date, in words: `learning_rate 0.001 -> 0.01; input model (base) changed`."""
    old, new = (asked_for.counted(spec) for spec in (manifest.spec, asked_for.spec))
    said = [*_spec_changes(old, new), *_input_changes(manifest.inputs, asked_for.inputs)]
    if facts.get("seed", asked_for.seed) != asked_for.seed:
        said.append("the seed changed")
    if facts.get("stage_version", asked_for.version) != asked_for.version:
        said.append(f"this version of luopan does {asked_for.kind} differently")
    if facts.get("fingerprint", asked_for.fingerprint) != asked_for.fingerprint:
        said.append("files it reads outside the run changed")
    if not said:
        return "something it depends on changed"
    return "; ".join(said[:4]) + (f"; and {len(said) - 4} more" if len(said) > 4 else "")


def _spec_changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _spec_changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        small = all(value is None or isinstance(value, bool | int | float | str) for value in (old, new))
        yield f"{path} {old} -> {new}" if small else f"{path} changed"


def _input_changes(old: Mapping[str, InputRecord], new: Mapping[str, InputRecord]) -> Iterator[str]:
    for role in dict.fromkeys([*old, *new]):
        one, other = old.get(role), new.get(role)
        if one is None or other is None:
            yield f"input {role} {'added' if one is None else 'removed'}"
        elif (one.identity, one.content) != (other.identity, other.content):
            yield f"input {role} ({PurePosixPath(other.path).name}) changed"
