"""What a corpus is made from, as a hash: work that was cut off goes on only where nothing of it has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_json, stable_hash
from luopan.artifacts.files import fsync_path
from luopan.artifacts.lock import LOCK_NAME
from luopan.corpus.config import CurateConfig
from luopan.corpus.identity import fingerprint
from luopan.corpus.parts import Place
from luopan.corpus.source_config import SourceConfig
from luopan.corpus.steps import decontaminate
from luopan.corpus.store import HELD_OUT, REJECTED_PARTS, TRAIN
from luopan.corpus.watcher import Watcher
from luopan.corpus.word_lists import versions
from luopan.errors import DataError

SCRATCH = ".curating"
PLAN = "plan.json"


def state(sources: Sequence[SourceConfig], config: CurateConfig) -> str:
    """What the result depends on beside the configuration: the sources, files that steps read, installed word lists."""
    used = [steps.toxicity for steps in (config, *config.per_source.values()) if steps.toxicity is not None]
    lists = sorted({language for block in used for language in block.languages})
    return stable_hash([fingerprint(sources, config.files()), versions(tuple(lists))])


def contamination_notes(config: CurateConfig) -> list[str]:
    """What of the evaluation sets cannot be looked for."""
    return decontaminate.gaps(config.decontaminate) if config.decontaminate is not None else []


def settings(config: CurateConfig) -> list[Any]:
    """What of a configuration the result depends on."""
    return [config.model_dump(mode="json", exclude=set(config.INCIDENTAL))]


def resume_or_clear(place: Place, plan: str, watcher: Watcher) -> None:
    """Keep what earlier work on the same plan finished; anything else goes."""
    marker = place.folder / PLAN
    if marker.is_file():
        with suppress(ValueError):
            if json.loads(marker.read_text(encoding="utf-8")) == plan:
                return
        watcher.note("settings or sources are others than those of the unfinished work here: beginning anew")
    clear(place.folder, keep=(LOCK_NAME,))
    atomic_write_json(marker, plan)


def clear(scratch: Path, keep: Sequence[str] = ()) -> None:
    """Take a scratch folder away, or what is in it but `keep`. The plan goes first, so that what a kill in the middle
    leaves is not gone on with."""
    (scratch / PLAN).unlink(missing_ok=True)
    fsync_path(scratch)
    for path in scratch.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep:
        scratch.rmdir()


def check_folder(folder: Path, sources: Sequence[SourceConfig]) -> None:
    """DataError where a corpus written to `folder` would replace what is not ours, or would be read by the next run."""
    ours = (folder / "card.json").is_file() or (folder / SCRATCH / PLAN).is_file()
    if folder.exists() and not folder.is_dir():
        raise DataError("is a file; a corpus needs a folder", where=folder)
    for name in (TRAIN, HELD_OUT, REJECTED_PARTS):
        if (folder / name).exists() and not ours:
            raise DataError(
                f"there is a folder {name} here that no corpus of luopan's left, and a corpus would replace it",
                where=folder,
                hint="Give another folder.",
            )
    for source in sources:
        path = getattr(source, "path", None) or getattr(source, "code", None)
        if path is not None and folder.resolve().is_relative_to(Path(path).expanduser().resolve()):
            raise DataError(
                f"lies in the source {path}, so that the next run would read what this one writes",
                where=folder,
                hint="Give a folder outside of it.",
            )
