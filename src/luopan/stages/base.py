"""What a stage is, and the folder it may write to.

A stage is stateless: everything it needs comes in as its spec, the artifacts it reads and its workspace. The pipeline
decides whether it runs at all; a stage that is run in a folder with earlier work of the same identity goes on from
there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from luopan.artifacts import Artifact, atomic_write_json
from luopan.train.progress import Progress
from luopan.train.ranks import leader_first

Inputs = Mapping[str, tuple[Artifact, ...]]


@dataclass(frozen=True)
class Workspace:
    """`path` is the one folder that the stage may write to; it becomes the artifact when the stage returns."""

    path: Path
    name: str
    seed: int
    progress: Progress
    stop_at: float | None = None
    """When to save and stop, in seconds of `time.monotonic`."""

    @property
    def cache(self) -> Path:
        """A folder of the run for what costs time and can be made again, shared by its stages; deleting it is safe."""
        return self.path.parent / ".cache"

    def remember(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of `name`, computed once per workspace: a resumed stage does not measure its start again.

        Of several processes rank 0 computes it, and all get it.
        """
        file = self.path / f"{name}.json"

        def make() -> None:
            if not file.is_file():
                atomic_write_json(file, compute())

        leader_first(make)
        return json.loads(file.read_text(encoding="utf-8"))


class Stage(Protocol):
    """One kind of stage. `version` rises when the same spec and inputs would give another result."""

    kind: ClassVar[str]
    version: ClassVar[int]
    payload: ClassVar[tuple[str, ...]]
    """What later stages depend on: folders or files below the artifact whose bytes make its content hash."""

    @staticmethod
    def fingerprint(spec: Any) -> str:
        """What outside the run the result depends on (files of the user, installed data), as text; "" if nothing."""
        ...

    @staticmethod
    def check(spec: Any) -> None:
        """Optional: raises LuopanError for what the spec asks for and cannot have; called for all stages first."""
        ...

    @staticmethod
    def run(spec: Any, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        """Do the work; `inputs` has a tuple of artifacts for every reference key of the spec.

        Returns the manifest's metrics: {"before": {figure: value}, "after": {figure: value}, …}.
        """
        ...
