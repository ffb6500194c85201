"""What a corpus is made from, as a hash: work that was cut off goes on only where nothing of it has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from luopan.artifacts import atomic_write_json, stable_hash
from luopan.artifacts.lock import LOCK_NAME
from luopan.corpus.config import CurateConfig
from luopan.corpus.identity import fingerprint
from luopan.corpus.parts import Place
from luopan.corpus.source_config import SourceConfig
from luopan.corpus.steps import decontaminate
from luopan.corpus.watcher import Watcher
from luopan.corpus.word_lists import versions


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
    marker = place.folder / "plan.json"
    if marker.is_file():
        with suppress(ValueError):
            if json.loads(marker.read_text(encoding="utf-8")) == plan:
                return
        watcher.note("settings or sources are others than those of the unfinished work here: beginning anew")
    for path in place.folder.iterdir():
        if path.name != LOCK_NAME:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    atomic_write_json(marker, plan)
