"""A folder's manifest: round trip, content hash, and every kind of damage named."""

from __future__ import annotations

from pathlib import Path

import pytest

from luopan.artifacts import Artifact, InputRecord, Manifest, build_manifest, read_manifest, verify, write_manifest
from luopan.errors import ArtifactError


def stage(path: Path) -> Path:
    (path / "model").mkdir(parents=True)
    (path / "model" / "weights").write_bytes(bytes(range(256)))
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    (path / "checkpoints" / "step-000001").mkdir(parents=True)
    (path / "checkpoints" / "step-000001" / "x").write_text("x")
    (path / ".lock").write_text("")
    return path


def manifest_of(path: Path) -> Manifest:
    return build_manifest(
        path,
        kind="pretrain",
        name="base",
        identity="abc",
        inputs={"tokenizer": InputRecord(path="runs/q/tok", identity="i", content="c")},
        spec={"learning_rate": 1e-3},
        metrics={"before": {"loss": 7.0}},
        seconds=1.5,
    )


def test_round_trip_and_verify(tmp_path: Path) -> None:
    folder = stage(tmp_path / "a")
    manifest = manifest_of(folder)
    write_manifest(folder, manifest)
    assert read_manifest(folder) == verify(folder) == manifest
    assert sorted(manifest.files) == ["metrics.jsonl", "model/weights"]
    assert manifest.files["model/weights"].bytes == 256
    assert manifest.created.endswith("+00:00")


def test_content_leaves_out_timings_and_sees_weights(tmp_path: Path) -> None:
    one, two, three = (stage(tmp_path / name) for name in "abc")
    (two / "metrics.jsonl").write_text('{"step": 2}\n')
    (three / "model" / "weights").write_bytes(b"other")
    assert manifest_of(one).content == manifest_of(two).content
    assert manifest_of(one).content != manifest_of(three).content


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "checksum differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "255 bytes, not 256"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, words: str) -> None:
    folder = stage(tmp_path / "a")
    write_manifest(folder, manifest_of(folder))
    damage(folder / "model" / "weights")
    with pytest.raises(ArtifactError, match=words) as caught:
        verify(folder)
    assert "model/weights" in str(caught.value) and "--fresh base" in str(caught.value)


def test_sizes_alone_are_quick_and_do_not_see_flipped_bytes(tmp_path: Path) -> None:
    folder = stage(tmp_path / "a")
    write_manifest(folder, manifest_of(folder))
    flip(folder / "model" / "weights")
    verify(folder, checksums=False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "x"}', '{"kind":"a","name":"b","identity":"c","more":1}'])
def test_unreadable_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="manifest"):
        read_manifest(tmp_path)


def test_a_manifest_may_not_point_outside(tmp_path: Path) -> None:
    folder = stage(tmp_path / "a")
    manifest = manifest_of(folder)
    record = manifest.files["model/weights"]
    write_manifest(folder, manifest.model_copy(update={"files": {"../a/model/weights": record}}))
    with pytest.raises(ArtifactError, match="points out"):
        verify(folder)


def test_artifact_handle(tmp_path: Path) -> None:
    folder = stage(tmp_path / "a")
    artifact = Artifact(folder)
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        _ = artifact.manifest
    write_manifest(folder, manifest_of(folder))
    assert artifact.manifest.name == "base"
    assert artifact.model_path == artifact.tokenizer_path == folder / "model"
    (folder / "tokenizer").mkdir()
    assert artifact.tokenizer_path == folder / "tokenizer"
    assert artifact.as_input().content == artifact.manifest.content
    with pytest.raises(ArtifactError, match="no 'shards'"):
        artifact.file("shards")
