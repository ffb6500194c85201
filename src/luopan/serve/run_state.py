"""What a run folder says about a run: its stages, and how each stands.

finished: the stage's folder is there with a manifest. running: a partial folder, and the process that holds the run's
lock lives. stopped: a partial folder, and nobody works on it. failed: the same, and the supervisor noted a crash there.
waiting: the recipe names it, and nothing was made yet.

Limits: a lock held on another machine is believed while its stage's files change (`FRESH_SECONDS`); a crash is known
only of supervised runs, because others leave no word of how they ended.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from luopan.serve.run_files import Entry, NotThere, list_folder, read_text

FRESH_SECONDS = 600.0
SMALL_BYTES = 4 << 20
REPORT_BYTES = 16 << 20
PARTIAL = ".partial"


@dataclass(frozen=True)
class StageState:
    """One stage of a run; `folder` is where its files are now, "" where there is none."""

    name: str
    kind: str
    state: str
    folder: str
    modified: float
    seconds: float | None = None
    created: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "modified": self.modified,
            "seconds": self.seconds,
            "created": self.created,
        }


@dataclass(frozen=True)
class RunState:
    """A run: `state` is that of the stage that tells most."""

    name: str
    description: str
    state: str
    stages: list[StageState]
    modified: float

    def stage(self, name: str) -> StageState:
        """One stage with files. Raises NotThere."""
        found = next((stage for stage in self.stages if stage.name == name and stage.folder), None)
        if found is None:
            raise NotThere(name)
        return found


def read_run(runs: Path, name: str, *, now: float | None = None) -> RunState | None:
    """The run in the folder `name`; None where no recipe and no stage is in it. Raises NotThere."""
    entries = list_folder(runs, [name])
    recipe = _recipe(runs, name)
    kinds = {stage: str(spec.get("kind", "")) for stage, spec in _stages_of(recipe).items()}
    folders = {entry.name: entry for entry in entries if entry.is_folder}
    working = _is_working(runs, name, folders, time.time() if now is None else now)
    crashed = _crashed(runs, name)
    partial = {entry.name.removesuffix(PARTIAL): entry for entry in folders.values() if entry.name.endswith(PARTIAL)}
    newest = max(partial.values(), key=lambda entry: entry.modified).name if partial else ""
    stages: list[StageState] = []
    for stage in dict.fromkeys([*kinds, *partial, *(n for n in folders if not n.endswith(PARTIAL))]):
        if stage in partial:
            entry = partial[stage]
            state = "running" if working and entry.name == newest else "failed" if stage == crashed else "stopped"
            stages.append(StageState(stage, kinds.get(stage, ""), state, entry.name, _touched(runs, name, entry)))
        elif stage in folders and (found := _finished(runs, name, folders[stage], kinds)):
            stages.append(found)
        elif stage in kinds:
            stages.append(StageState(stage, kinds[stage], "waiting", "", 0.0))
    if not kinds and not any(stage.folder for stage in stages):
        return None
    states = [stage.state for stage in stages]
    rest = "running" if working else "finished" if "waiting" not in states else "stopped"
    overall: str = next((s for s in ("running", "failed", "stopped") if s in states), rest)
    modified = max((stage.modified for stage in stages), default=0.0)
    return RunState(name, str(recipe.get("description") or ""), overall, stages, modified)


def manifest_of(runs: Path, run: str, folder: str) -> dict[str, Any]:
    """A stage's manifest; empty where there is none or it cannot be read."""
    return read_json(runs, [run, folder, "manifest.json"])


def read_json(runs: Path, parts: list[str], limit: int = SMALL_BYTES) -> dict[str, Any]:
    """A JSON object in a file; empty where there is none, it is larger than `limit`, or it cannot be read."""
    try:
        text, cut = read_text(runs, parts, limit)
        value = {} if cut else json.loads(text)
    except (NotThere, OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _recipe(runs: Path, name: str) -> dict[str, Any]:
    try:
        text, cut = read_text(runs, [name, "recipe.lock.yaml"], SMALL_BYTES)
        value = {} if cut else yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (NotThere, OSError, yaml.YAMLError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _stages_of(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    stages = recipe.get("stages")
    if not isinstance(stages, dict):
        return {}
    return {str(name): spec for name, spec in stages.items() if isinstance(spec, dict)}


def _finished(runs: Path, run: str, entry: Entry, kinds: dict[str, str]) -> StageState | None:
    manifest = manifest_of(runs, run, entry.name)
    if not manifest:
        return None
    seconds = manifest.get("seconds")
    created = str(manifest.get("created") or "")
    modified = entry.modified
    with suppress(ValueError):
        modified = datetime.fromisoformat(created).astimezone(UTC).timestamp()
    kind = kinds.get(entry.name) or str(manifest.get("kind") or "")
    known = float(seconds) if isinstance(seconds, int | float) else None
    return StageState(entry.name, kind, "finished", entry.name, modified, known, created)


def _touched(runs: Path, run: str, entry: Entry) -> float:
    """When a file of a partial folder was last written."""
    try:
        return max([entry.modified, *(inner.modified for inner in list_folder(runs, [run, entry.name]))])
    except NotThere:
        return entry.modified


def _is_working(runs: Path, run: str, folders: dict[str, Entry], now: float) -> bool:
    """Whether the process that holds the run's lock lives. Asking the lock itself could disturb a run that starts."""
    try:
        holder = json.loads(read_text(runs, [run, ".lock"], 4096, hidden=True)[0])
        process, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (NotThere, OSError, ValueError, KeyError, TypeError):
        return False  # released, or never held
    if host != socket.gethostname():
        touched = max((_touched(runs, run, entry) for entry in folders.values()), default=0.0)
        return now - touched < FRESH_SECONDS
    if process == os.getpid():
        return True
    try:
        began = psutil.Process(process).create_time()
        return began <= datetime.fromisoformat(since).timestamp() + 2.0  # else the number was given to another
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError):
        return False


def _crashed(runs: Path, run: str) -> str:
    """The stage at which the supervisor last noted a crash."""
    try:
        lines = read_text(runs, [run, "restarts.jsonl"], SMALL_BYTES)[0].splitlines()
        return str(json.loads(lines[-1])["stage"])
    except (NotThere, OSError, ValueError, KeyError, TypeError, IndexError):
        return ""
