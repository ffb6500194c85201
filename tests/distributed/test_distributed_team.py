"""A run in two processes: rank 0 alone decides, writes and measures; both train; a failure of one ends both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rank_toys import start

from luopan.artifacts import verify
from luopan.pipeline.team import team

SCRIPT = str(Path(__file__).with_name("team_script.py"))
pytestmark = pytest.mark.distributed


def run_team(folder: Path, *overrides: str, ranks: int = 2) -> tuple[list[int], list[dict]]:
    """Exit codes and reports of the processes, by rank."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    children = start([SCRIPT, str(folder), str(folder), *overrides], ranks)
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert not any("Traceback" in error for error in errors), "\n".join(errors)
    reports = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return [child.returncode for child in children], reports


def logs(folder: Path) -> list[list[str]]:
    return [(folder / f"log-{rank}").read_text().splitlines() for rank in (0, 1)]


def test_rank_0_runs_the_recipe_and_the_other_helps_to_train(tmp_path: Path) -> None:
    codes, reports = run_team(tmp_path)
    assert codes == [0, 0] and reports[0] == reports[1]
    assert reports[0]["states"] == {"first": "made", "second": "made", "third": "made"}
    known = [f"{{'measured_by': 0, 'text': '{text}'}} [3.0]" for text in ("text", "text 3")]
    leader, follower = logs(tmp_path)
    assert [line.rsplit(" ", 1)[0] if "trained" in line else line for line in leader] == [
        "write", f"second trained {known[0]}", "second measured", f"third trained {known[1]}", "third measured",
    ]  # fmt: skip
    assert follower == [line for line in leader if "trained" in line]  # the same seeds, too
    for stage in ("first", "second", "third"):
        verify(tmp_path / "team" / stage)
    assert (tmp_path / "team" / "third" / "text.txt").read_text() == "text 3 3"

    codes, reports = run_team(tmp_path)
    assert codes == [0, 0] and set(reports[1]["states"].values()) == {"done"}
    assert logs(tmp_path) == [leader, follower]  # nothing was done again

    codes, reports = run_team(tmp_path, "third.learning_rate=2")
    assert codes == [0, 0] and reports[0]["states"] == {"first": "done", "second": "done", "third": "made"}


@pytest.mark.parametrize("place", ["training 0", "training 1", "measuring 0"])
def test_a_failure_of_one_ends_both_with_a_message(tmp_path: Path, place: str) -> None:
    codes, reports = run_team(tmp_path, f"second.fails={place}")
    failed = int(place[-1])
    assert codes == [2, 2]
    assert reports[failed]["error"] == f"rank {failed} fails while {place.split()[0]}"
    assert reports[1 - failed]["error"].startswith("another process of this run has stopped")
    if place != "measuring 0":
        return
    codes, reports = run_team(tmp_path)  # the lock is free, the first stage done, and the measured start kept
    assert codes == [0, 0] and reports[0]["states"] == {"first": "done", "second": "made", "third": "made"}


def test_a_single_process_is_a_team_of_its_own() -> None:
    with team() as alone:
        assert alone.leads and alone.size == 1
