"""A stage's folders: `<stage>.partial/` while it is made, `<stage>/` when it is whole.

A partial folder says in `.stage.json` what it was begun for. One of the same identity is gone on with; one of another
identity is thrown away. A partial folder with a valid manifest is a stage that was killed between its last write and
the rename: it only has to be renamed.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.artifacts import Manifest, atomic_write_json, mend_os_errors, read_manifest, recover_folder, replace_folder
from luopan.artifacts import verify as verify_folder
from luopan.errors import ArtifactError
from luopan.pipeline.identity import Asked

NOTE = ".stage.json"


@dataclass(frozen=True)
class StageFolders:
    """The two folders of one stage of a run."""

    run: Path
    name: str

    @property
    def final(self) -> Path:
        """Where the finished stage is."""
        return self.run / self.name

    @property
    def partial(self) -> Path:
        """Where it is made."""
        return self.run / f"{self.name}.partial"

    def finished(self) -> Manifest | None:
        """The manifest of the finished stage, or None. A folder that is not whole raises ArtifactError."""
        recover_folder(self.final)
        if not self.final.exists():
            return None
        if not (self.final / "manifest.json").exists():
            raise ArtifactError(
                "a folder with the name of a stage, but no manifest in it: luopan did not make it",
                where=self.final,
                hint=f"Move it away, choose another run with name=OTHER, or throw it away with --fresh {self.name}.",
            )
        return verify_folder(self.final, checksums=False)

    def facts(self) -> dict[str, Any]:
        """What the finished stage was made for, beyond its manifest."""
        return read_note(self.final)

    def begin(self, asked: Asked, *, fresh: bool) -> bool:
        """Makes the partial folder ready for `asked`; True if there is earlier work in it to go on with."""
        note = read_note(self.partial)
        with mend_os_errors(self.partial):
            if not fresh and note.get("identity") == asked.identity:
                return True
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self.partial.mkdir(parents=True)
        atomic_write_json(self.partial / NOTE, {"identity": asked.identity, "seconds": 0.0, **asked.facts()})
        return False

    def begin_work(self) -> float:
        """Notes that work begins now; returns the seconds that earlier, interrupted work on this folder took.

        Work that was killed could note nothing: it counts up to the last file it wrote.
        """
        note = read_note(self.partial)
        spent = float(note.get("seconds", 0.0))
        if "since" in note:
            files = (path for path in self.partial.rglob("*") if path.is_file())
            last = max((path.stat().st_mtime for path in files), default=0.0)
            spent += max(0.0, last - float(note["since"]))
        atomic_write_json(self.partial / NOTE, {**note, "seconds": spent, "since": time.time()})
        return spent

    def note_seconds(self, seconds: float) -> None:
        """Keeps the time spent so far, for a stage that stops before it is done."""
        note = {key: value for key, value in read_note(self.partial).items() if key != "since"}
        atomic_write_json(self.partial / NOTE, {**note, "seconds": seconds})

    def whole_partial(self, identity: str) -> Manifest | None:
        """The manifest of a partial folder that is finished but for its rename, or None."""
        try:
            manifest = read_manifest(self.partial)
            return verify_folder(self.partial) if manifest.identity == identity else None
        except ArtifactError:
            return None

    def finish(self) -> None:
        """The partial folder becomes the stage; an earlier one goes when the new one is in place."""
        replace_folder(self.partial, self.final)

    def tidy(self) -> None:
        """Removes what a kill right after `finish` leaves: the replaced stage, whole, under the partial name."""
        if (self.partial / "manifest.json").exists():
            with mend_os_errors(self.partial):
                shutil.rmtree(self.partial)


def read_note(folder: Path) -> dict[str, Any]:
    """`.stage.json` of a folder; empty where there is none or it cannot be read."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
