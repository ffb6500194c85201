"""Copies a model out of a run: a Hugging Face folder that says where it came from.

The folder loads with `transformers` and with luopan; `luopan_lineage.json` in it holds every artifact behind the
model. The copy is checked against the manifest's checksums first and appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from luopan.artifacts import atomic_write_text, ensure_free_space, mend_os_errors, replace_folder, verify
from luopan.errors import ArtifactError
from luopan.pipeline.lineage import EXPORTED, lineage
from luopan.pipeline.models import model_folder


def export_hf(model: str | Path, target: Path, *, architecture: str | None = None) -> Path:
    """Writes MODEL to the folder `target`, which must not exist; under another `architecture` if one is given.

    Raises ArtifactError (target exists, source damaged), ModelError (an option that the architecture, or every one,
    cannot express; it is named).
    """
    source = model_folder(model)
    if target.exists():
        raise ArtifactError("exists already; not overwritten", where=target, hint="Remove it or give another folder.")
    if architecture is None:
        from luopan.model.hf import read_config, to_hf_config

        to_hf_config(read_config(source))  # ModelError where transformers cannot express the model
    if (source.parent / "manifest.json").is_file():
        verify(source.parent)
    files = [path for path in source.iterdir() if path.is_file()]
    ensure_free_space(target, sum(path.stat().st_size for path in files))
    partial = target.with_name(f".{target.name}.partial")
    with mend_os_errors(target):
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            for path in files:
                shutil.copyfile(path, partial / path.name)
            if architecture is not None:
                _rewrite(source, partial, architecture)
            _write_lineage(source, partial)
            replace_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _rewrite(source: Path, target: Path, architecture: str) -> None:
    from luopan.model.hf import load, save

    for old in [*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")]:
        old.unlink()
    save(load(source), target, architecture=architecture)


def _write_lineage(source: Path, target: Path) -> None:
    try:
        steps = [step.as_dict() for step in lineage(source)]
    except ArtifactError:  # a model from elsewhere has none
        return
    atomic_write_text(target / EXPORTED, json.dumps(steps, ensure_ascii=False, indent=2) + "\n")
