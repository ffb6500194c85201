"""Lineage of fake stages, and finding the folder that MODEL means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_stages import run_fake

from luopan.errors import ArtifactError, ModelError
from luopan.pipeline.lineage import lineage
from luopan.pipeline.models import default_sampling, model_folder, tokenizer_folder

RECIPE = {
    "name": "trial",
    "stages": {
        "first": {"kind": "make", "text": "one"},
        "other": {"kind": "make", "text": "two"},
        "middle": {"kind": "join", "source": "first"},
        "last": {"kind": "join", "sources": ["middle", "other", "first"]},
    },
}


def test_lineage_goes_back_to_the_data(tmp_path: Path) -> None:
    result, _ = run_fake(RECIPE, runs=tmp_path)
    steps = lineage(result.stage("last"))
    assert [step.name for step in steps] == ["first", "middle", "other", "last"]
    assert steps[-1].inputs == {"sources.0": "middle", "sources.1": "other", "sources.2": "first"}
    assert steps[0].spec["text"] == "one" and steps[0].versions["python"]
    assert {step.state for step in steps} == {"as recorded"}
    assert lineage(result.stage("last") / "joined") == steps, "a folder inside the stage will do"


def test_lineage_survives_moving_the_run(tmp_path: Path) -> None:
    result, _ = run_fake(RECIPE, runs=tmp_path)
    moved = tmp_path / "elsewhere"
    result.path.rename(moved)
    assert [step.name for step in lineage(moved / "last")] == ["first", "middle", "other", "last"]


def test_what_was_made_again_or_is_gone_is_said(tmp_path: Path) -> None:
    result, _ = run_fake(RECIPE, runs=tmp_path)
    recorded = {step.name: step.identity for step in lineage(result.stage("last"))}
    run_fake(RECIPE, ["other.text=zwei"], runs=tmp_path, only=["other"])
    (result.stage("middle") / "manifest.json").unlink()
    states = {step.name: (step.state, step.identity) for step in lineage(result.stage("last"))}
    assert states["other"] == ("made again since", recorded["other"])
    assert states["middle"] == ("gone", recorded["middle"])


def test_no_manifest_no_lineage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        lineage(tmp_path)


def test_model_folder_finds_or_says_what_there_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for stage in ("pretrain", "sft"):
        (run / stage / "model").mkdir(parents=True)
        (run / stage / "model" / "config.json").write_text("{}")
        (run / stage / "manifest.json").write_text("{}")
    (run / "eval").mkdir()
    (run / "eval" / "manifest.json").write_text("{}")
    (run / "grpo.partial").mkdir()
    assert model_folder(run / "sft") == model_folder(run / "sft" / "model") == run / "sft" / "model"
    for path, message in (
        (run, f"one of its stages: {run}/pretrain, {run}/sft"),
        (run / "eval", "a stage that makes no model"),
        (run / "grpo", "not finished"),
        (run / "stf", 'no such model; did you mean "sft"'),
        (run / "sft" / "manifest.json", "is a file"),
        (tmp_path, "no model in this folder"),
    ):
        with pytest.raises(ModelError) as caught:
            model_folder(path)
        assert message in str(caught.value)
    with pytest.raises(ModelError, match="no tokenizer in this folder"):
        tokenizer_folder(tmp_path)


def test_a_hub_id_is_looked_for_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hub cannot be reached"):
        model_folder("nobody/nothing-of-this-name")


def test_default_sampling_is_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert default_sampling(tmp_path) == {}
    for config, expected in (
        ({"temperature": 0.6, "eos_token_id": 2}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95}),
        ({"do_sample": True, "top_k": 20}, {"temperature": 1.0, "top_k": 20}),
    ):
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
        assert default_sampling(tmp_path) == expected
