"""Merging as a stage: measured beside its inputs, the same bytes wherever it is made, and resumed after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact, build_manifest, sha256_file, write_manifest
from luopan.model import hf
from luopan.recipe.merge_specs import MergeSpec
from luopan.stages.common import save_model
from luopan.stages.merge import Merge


def made(folder: Path, name: str, seed: int) -> Artifact:
    folder.mkdir(parents=True)
    save_model(tiny_chat(seed=seed), folder)
    write_manifest(folder, build_manifest(folder, kind="sft", name=name, identity="a" * 64))
    return Artifact(folder)


def test_a_soup_and_a_part_of_another_model(tmp_path: Path) -> None:
    """SmolLM3's: a soup of what preference training made, then 0.9 of it and 0.1 of the mid-training checkpoint."""
    mid, *apo = (made(tmp_path / name, name, seed) for seed, name in enumerate(("mid", "apo1", "apo2")))
    out = workspace(tmp_path / "soup")
    Merge.run(MergeSpec(kind="merge", models=("apo1", "apo2")), {"models": tuple(apo)}, out)
    write_manifest(out.path, build_manifest(out.path, kind="merge", name="soup", identity="b" * 64))
    suite: dict[str, Any] = {"tests": ({"skill": "talk", "cases": 4},)}
    spec = MergeSpec(kind="merge", models=("soup", "mid"), weights=(0.9, 0.1), suite=suite)
    final = workspace(tmp_path / "final")
    metrics = Merge.run(spec, {"models": (Artifact(out.path), mid)}, final)
    assert metrics["models"] == 2
    parts = [dict(hf.load(one.model_path).named_parameters()) for one in (*apo, mid)]
    for name, tensor in hf.load(final.path / "model").named_parameters():
        expected = 0.9 * (parts[0][name] + parts[1][name]) / 2 + 0.1 * parts[2][name]
        assert torch.allclose(tensor, expected, atol=1e-6), name
    report = json.loads((final.path / "stage_report.json").read_text())
    assert report["tables"][0]["columns"] == ["test", "soup", "mid", "mine"]


def test_the_same_bytes_in_another_place_and_after_a_kill(tmp_path: Path) -> None:
    spec = MergeSpec(kind="merge", models=("one", "other"), weights=(3, 1))
    found = []
    for place in ("here", "there"):
        root = tmp_path / place
        sources = (made(root / "one", "one", 1), made(root / "other", "other", 2))
        out = workspace(root / "merge")
        if place == "there":  # killed after the merge was written, before it was the stage's model
            (out.path / "merged").mkdir()
            (out.path / ".merged.partial").mkdir()
        Merge.run(spec, {"models": sources}, out)
        assert not (out.path / "merged").exists() and not (out.path / ".merged.partial").exists()
        found.append({file.name: sha256_file(file) for file in (out.path / "model").iterdir()})
    assert found[0] == found[1]


def test_keys_without_effect(tmp_path: Path) -> None:
    base = {"kind": "merge", "models": ("a", "b")}
    for more, message in (
        ({"t": 0.5}, "t has no effect"), ({"method": "ties"}, "needs a base"), ({"base": "c"}, "takes no base"),
        ({"method": "slerp", "weights": (1, 1)}, "no weights"), ({"weights": (1,)}, "1 weights for 2 models"),
        ({"normalize": False}, "normalize: false has no effect"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            MergeSpec(**base, **more)
