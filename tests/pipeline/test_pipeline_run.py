"""What a run does and leaves alone, with stages that write a line of text."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import fake_stages
import pytest
from fake_stages import run_fake

from luopan.artifacts import read_manifest
from luopan.errors import ArtifactError, DiskFullError, Interrupted, RecipeError
from luopan.recipe.load import load_recipe


def recipe(**changes: Any) -> dict[str, Any]:
    """first, other → middle (reads first) → last (reads middle and other)."""
    stages: dict[str, Any] = {
        "last": {"kind": "join", "sources": ["middle", "other"]},
        "first": {"kind": "make", "text": "one"},
        "middle": {"kind": "join", "source": "first", "steps": 4},
        "other": {"kind": "make", "text": "two"},
    }
    for stage, spec in changes.items():
        stages[stage] = {**stages[stage], **spec}
    return {"name": "trial", "stages": stages}


def states(result: Any) -> dict[str, str]:
    return {name: outcome.state for name, outcome in result.outcomes.items()}


def text(runs: Path, stage: str = "last") -> str:
    return (runs / "trial" / stage / "joined" / "text.txt").read_text()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_stages_run_after_what_they_need(tmp_path: Path) -> None:
    result, reporter = run_fake(recipe(), runs=tmp_path)
    assert list(result.outcomes) == ["first", "middle", "other", "last"]
    assert set(states(result).values()) == {"made"}
    assert text(tmp_path) == "one+two"
    assert not list((tmp_path / "trial").glob("*.partial"))
    assert ("end", str(tmp_path / "trial")) in reporter.events


def test_finished_recipe_does_nothing_and_says_so(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    before = snapshot(tmp_path)
    result, reporter = run_fake(recipe(), runs=tmp_path)
    assert set(states(result).values()) == {"done"}
    assert [event for event, _ in reporter.events] == ["begin", *["skipped"] * 4, "end"]
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ("middle.steps=5", {"middle", "last"}),
        ("other.text=zwei", {"other", "last"}),
        ("first.text=eins", {"first", "middle", "last"}),
        ("last.steps=2", {"last"}),
        ("seed=1", {"first", "middle", "other", "last"}),
    ],
)
def test_a_changed_setting_redoes_that_stage_and_what_follows(tmp_path: Path, changed: str, redone: set[str]) -> None:
    run_fake(recipe(), runs=tmp_path)
    result, reporter = run_fake(recipe(), [changed], runs=tmp_path)
    assert {name for name, state in states(result).items() if state == "made"} == redone
    key = "the seed changed" if changed == "seed=1" else changed.split(".")[1].split("=")[0]
    first = next(name for event, name in reporter.events if event == "started")
    assert key in reporter.reasons[first]


def test_the_reason_for_a_redo_names_old_and_new_value(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    _, reporter = run_fake(recipe(), ["middle.steps=5"], runs=tmp_path)
    assert reporter.reasons["middle"] == "steps 4 -> 5"
    assert reporter.reasons["last"] == "input sources.0 (middle) changed"


def test_code_version_and_outside_files_are_part_of_the_identity(tmp_path: Path, monkeypatch: Any) -> None:
    outside = tmp_path / "outside"
    outside.write_text("a")
    asked = recipe(first={"reads": str(outside)})
    run_fake(asked, runs=tmp_path)
    outside.write_text("b")
    result, reporter = run_fake(asked, runs=tmp_path)
    assert states(result) == {"first": "made", "middle": "made", "other": "done", "last": "made"}
    assert reporter.reasons["first"] == "files it reads outside the run changed"
    monkeypatch.setattr(fake_stages.Join, "version", 2)
    result, reporter = run_fake(asked, runs=tmp_path)
    assert states(result) == {"first": "done", "middle": "made", "other": "done", "last": "made"}
    assert reporter.reasons["middle"] == "this version of luopan does join differently"


def test_a_failure_keeps_earlier_stages_and_a_resume_goes_on(tmp_path: Path) -> None:
    broken = recipe(middle={"fails_at": 2})
    with pytest.raises(RuntimeError, match="step 2 fails"):
        run_fake(broken, runs=tmp_path)
    first = read_manifest(tmp_path / "trial" / "first")
    assert not (tmp_path / "trial" / "middle").exists()
    (tmp_path / "mended").touch()
    result, reporter = run_fake(broken, runs=tmp_path)
    assert states(result) == {"first": "done", "middle": "resumed", "other": "made", "last": "made"}
    assert result.outcomes["middle"].manifest.metrics["resumed_at"] == 2
    assert ("resumed", "middle") in reporter.events
    assert read_manifest(tmp_path / "trial" / "first") == first
    assert text(tmp_path) == "one+two"


def test_a_partial_stage_of_another_identity_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_fake(recipe(middle={"fails_at": 2}), runs=tmp_path)
    result, _ = run_fake(recipe(middle={"steps": 7}), runs=tmp_path)
    assert result.outcomes["middle"].state == "made"
    assert result.outcomes["middle"].manifest.metrics["resumed_at"] == 0


def test_the_old_result_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    whole = snapshot(tmp_path / "trial" / "middle")
    with pytest.raises(RuntimeError):
        run_fake(recipe(middle={"fails_at": 1}), runs=tmp_path)
    assert snapshot(tmp_path / "trial" / "middle") == whole


def test_ctrl_c_is_an_interruption_that_can_be_gone_on_from(tmp_path: Path, monkeypatch: Any) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake_stages, "sleep", interrupted)
    with pytest.raises(Interrupted, match="interrupted in stage middle") as caught:
        run_fake(recipe(), runs=tmp_path)
    assert caught.value.exit_code == 130
    monkeypatch.undo()
    result, _ = run_fake(recipe(), runs=tmp_path)
    assert result.outcomes["middle"].state == "resumed"


def test_killed_between_the_last_write_and_the_rename(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    run = tmp_path / "trial"
    (run / "middle").rename(run / "middle.partial")
    result, reporter = run_fake(recipe(), runs=tmp_path)
    assert result.outcomes["middle"].state == "resumed"
    assert ("resumed", "middle") not in reporter.events, "the work was done, only the rename was missing"
    assert result.outcomes["last"].state == "done"


def test_killed_right_after_the_swap_leaves_nothing_behind(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    run = tmp_path / "trial"
    shutil.copytree(run / "middle", run / "middle.partial")
    run_fake(recipe(), runs=tmp_path)
    assert not (run / "middle.partial").exists()


def test_until_does_what_the_stage_needs_and_no_more(tmp_path: Path) -> None:
    result, _ = run_fake(recipe(), runs=tmp_path, until="middle")
    assert list(result.outcomes) == ["first", "middle"]
    assert not (tmp_path / "trial" / "other").exists()


def test_only_touches_one_stage_and_wants_its_inputs_done(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="middle needs first, which is not done"):
        run_fake(recipe(), runs=tmp_path, only=["middle"])
    run_fake(recipe(), runs=tmp_path)
    result, _ = run_fake(recipe(), ["middle.steps=9"], runs=tmp_path, only=["middle"])
    assert states(result) == {"middle": "made"}
    with pytest.raises(ArtifactError, match=r"last needs middle, which is out of date \(steps 9 -> 4\)"):
        run_fake(recipe(), runs=tmp_path, only=["last"])


def test_fresh_throws_away_what_there_is(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    marker = tmp_path / "trial" / "middle" / "log.txt"
    before = marker.stat().st_mtime_ns
    result, reporter = run_fake(recipe(), runs=tmp_path, fresh=["middle"])
    assert marker.stat().st_mtime_ns > before
    assert reporter.reasons == {"middle": "as asked with --fresh"}
    assert states(result)["last"] == "done", "the same content came out, so nothing follows"
    with pytest.raises(RuntimeError):
        run_fake(recipe(middle={"fails_at": 2}), runs=tmp_path)
    (tmp_path / "mended").touch()
    result, _ = run_fake(recipe(middle={"fails_at": 2}), runs=tmp_path, fresh=["middle"])
    assert result.outcomes["middle"].manifest.metrics["resumed_at"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": "midle"}, '--until: unknown stage "midle"; did you mean "middle"'),
        ({"only": ["x"]}, '--only: unknown stage "x"; known: last, first, middle, other'),
        ({"fresh": ["firsst"]}, 'did you mean "first"'),
        ({"until": "middle", "only": ["first"]}, "exclude each other"),
        ({"until": "middle", "fresh": ["last"]}, "--fresh last has no effect"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run_fake(recipe(), runs=tmp_path, **options)
    assert not (tmp_path / "trial").exists()


def test_a_damaged_input_is_found_before_it_is_used(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    (tmp_path / "trial" / "first" / "text.txt").write_text("oNe")
    with pytest.raises(ArtifactError, match=r"text\.txt has other bytes"):
        run_fake(recipe(), ["middle.steps=5"], runs=tmp_path)
    (tmp_path / "trial" / "first" / "text.txt").unlink()
    with pytest.raises(ArtifactError, match=r"text\.txt is missing"):
        run_fake(recipe(), runs=tmp_path)
    result, _ = run_fake(recipe(), runs=tmp_path, fresh=["first"])
    assert set(states(result).values()) == {"made", "done"}


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "trial" / "first" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("ten years of work")
    with pytest.raises(ArtifactError, match="luopan did not make it"):
        run_fake(recipe(), runs=tmp_path)
    assert mine.read_text() == "ten years of work"


def test_manifest_says_what_was_made_of_what(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    middle, last = (read_manifest(tmp_path / "trial" / name) for name in ("middle", "last"))
    assert last.inputs["sources.0"].identity == middle.identity
    assert last.inputs["sources.0"].content == middle.content
    assert last.inputs["sources.0"].path == "../middle"
    assert middle.spec["steps"] == 4
    assert middle.metrics["after"] == {"texts": 1}
    assert middle.metrics["peak_memory_bytes"] > 1e6
    assert middle.versions["python"]


def test_payload_is_the_content_and_nothing_else(tmp_path: Path) -> None:
    run_fake(recipe(), runs=tmp_path)
    before = read_manifest(tmp_path / "trial" / "middle").content
    run_fake(recipe(), runs=tmp_path, fresh=["middle"])
    assert read_manifest(tmp_path / "trial" / "middle").content == before  # the log differs, it is no payload
    run_fake(recipe(first={"text": "uno"}), runs=tmp_path)
    assert read_manifest(tmp_path / "trial" / "middle").content != before


def test_report_stands_beside_the_stages_and_is_renewed(tmp_path: Path) -> None:
    run_fake({"name": "trial", "stages": {"page": {"kind": "make", "text": "a"}}}, runs=tmp_path)
    page = tmp_path / "trial" / "report.html"
    assert page.read_text() == "<p>a</p>"
    page.unlink()
    run_fake({"name": "trial", "stages": {"page": {"kind": "make", "text": "a"}}}, runs=tmp_path)
    assert page.read_text() == "<p>a</p>"


def test_lock_file_is_a_recipe_that_gives_the_same_run(tmp_path: Path) -> None:
    asked = recipe(first={"text": "1e-3", "note": "two\nlines"})
    run_fake(asked, ["middle.steps=6"], runs=tmp_path)
    lock = tmp_path / "trial" / "recipe.lock.yaml"
    loaded = load_recipe(lock, model=fake_stages.FakeRecipe)
    assert loaded.recipe == load_recipe(asked, ["middle.steps=6"], model=fake_stages.FakeRecipe).recipe
    assert "luopan" in lock.read_text()
    result, _ = run_fake(lock, runs=tmp_path)
    assert set(states(result).values()) == {"done"}


def test_time_of_an_interrupted_stage_is_added_up(tmp_path: Path) -> None:
    slow = recipe(middle={"fails_at": 2, "seconds_per_step": 0.05})
    with pytest.raises(RuntimeError):
        run_fake(slow, runs=tmp_path)
    note = json.loads((tmp_path / "trial" / "middle.partial" / ".stage.json").read_text())
    assert note["seconds"] >= 0.1
    (tmp_path / "mended").touch()
    result, _ = run_fake(slow, runs=tmp_path)
    assert result.outcomes["middle"].manifest.seconds >= note["seconds"] + 0.1


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [(errno.ENOSPC, DiskFullError, "disk is full"), (errno.EROFS, ArtifactError, "cannot be written to")],
)
def test_a_full_or_read_only_disk_is_one_clear_message(
    tmp_path: Path, monkeypatch: Any, number: int, kind: type[Exception], message: str
) -> None:
    def fails(spec: Any, inputs: Any, out: Any) -> dict[str, Any]:
        (out.path / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fake_stages.Join, "run", staticmethod(fails))
    with pytest.raises(kind, match=message) as caught:
        run_fake(recipe(), runs=tmp_path)
    assert getattr(caught.value, "exit_code", None) == 2 and "middle.partial" in str(caught.value)
    assert not (tmp_path / "trial" / "middle").exists()
    assert read_manifest(tmp_path / "trial" / "first")
    monkeypatch.undo()
    run_fake(recipe(), runs=tmp_path)
    assert text(tmp_path) == "one+two"


def test_runs_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ArtifactError, match="this folder cannot be made"):
        run_fake(recipe(), runs=tmp_path / "runs")


def test_incidental_keys_do_not_redo_a_stage(tmp_path: Path, monkeypatch: Any) -> None:
    run_fake(recipe(), runs=tmp_path)
    monkeypatch.setattr(fake_stages.MakeSpec, "INCIDENTAL", ("note",), raising=False)
    result, _ = run_fake(recipe(), runs=tmp_path)
    assert result.outcomes["first"].state == "made", "the identity says what it does not depend on"
    result, _ = run_fake(recipe(first={"note": "another"}), runs=tmp_path)
    assert set(states(result).values()) == {"done"}
