"""`stop_after`: no stage is begun when the time is up, and the exit code says that the run wants another turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_stages import run_fake

from luopan.errors import Interrupted

RECIPE = {
    "name": "late",
    "stages": {"first": {"kind": "make"}, "second": {"kind": "join", "source": "first", "seconds_per_step": 2.0}},
}


def test_the_stage_that_runs_is_finished_and_the_next_not_begun(tmp_path: Path) -> None:
    recipe = {**RECIPE, "stages": {**RECIPE["stages"], "third": {"kind": "join", "source": "second"}}}
    with pytest.raises(Interrupted, match="is up before stage third") as caught:
        run_fake(recipe, runs=tmp_path, stop_after=1.5)
    assert caught.value.exit_code == 75
    assert (tmp_path / "late" / "second" / "manifest.json").is_file()
    assert not (tmp_path / "late" / "third.partial" / "log.txt").exists()
    result, _ = run_fake(recipe, runs=tmp_path)
    assert {name: outcome.state for name, outcome in result.outcomes.items()}["second"] == "done"
    run_fake(recipe, runs=tmp_path, stop_after=0)  # nothing to do is not too late


def test_time_enough_changes_nothing(tmp_path: Path) -> None:
    result, _ = run_fake(RECIPE, runs=tmp_path, stop_after=60)
    assert [outcome.state for outcome in result.outcomes.values()] == ["made", "made"]
