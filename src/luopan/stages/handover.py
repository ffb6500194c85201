"""What every stage hands over: its part of the report, its headline figures, a hash of the user's files it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_text, sha256_file, stable_hash
from luopan.errors import DataError
from luopan.recipe.parts import RowSource
from luopan.report.data import Figure, StageReport

REPORT_FILE = "stage_report.json"


def write_report(folder: Path, report: StageReport) -> None:
    """Keep the stage's part of the report beside its other files."""
    atomic_write_text(folder / REPORT_FILE, report.model_dump_json(indent=1) + "\n")


def metrics_of(figures: Sequence[Figure], **more: Any) -> dict[str, Any]:
    """The manifest's metrics: headline figures before and after, and whatever else counts."""
    headline = [figure for figure in figures if figure.headline]
    return {
        "before": {figure.name: figure.before for figure in headline},
        "after": {figure.name: figure.after for figure in headline},
        **more,
    }


def sources_fingerprint(sources: Iterable[RowSource]) -> str:
    """A hash over the files of all sources, folders included; a dataset of the hub counts by its name and revision."""
    found: list[str] = []
    for source in sources:
        place = source.path or source.dataset
        if place is not None and Path(place).is_dir():
            found += [str(file) for file in sorted(Path(place).rglob("*")) if file.is_file()]
        elif source.path is not None:
            found.append(source.path)
    return file_fingerprint(found)


def file_fingerprint(paths: Iterable[str | None]) -> str:
    """A hash over the user's files that a stage reads, "" if it reads none; DataError for a missing one."""
    found = [Path(path) for path in paths if path is not None]
    for path in found:
        if not path.is_file():
            raise DataError("no such file", where=path, hint="Paths in a recipe are relative to where luopan is run.")
    return stable_hash([sha256_file(path) for path in found]) if found else ""
