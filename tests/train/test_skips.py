"""The map from updates to data steps: hand-worked, and equal after a restart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from luopan.errors import ArtifactError, DiskFullError
from luopan.train import skips as skips_module
from luopan.train.skips import Skips
from luopan.train.spikes import Skipped


def test_without_a_rewind_data_and_updates_are_one(tmp_path: Path) -> None:
    skips = Skips(tmp_path)
    assert [skips.data_step(update) for update in (0, 5, 99)] == [0, 5, 99] and skips.count == 0
    assert not list(tmp_path.iterdir())


def test_what_was_read_since_the_checkpoint_is_never_read_again(tmp_path: Path) -> None:
    skips = Skips(tmp_path)
    skips.rewind(100, 120, "spike", ["a", "b"])
    assert [skips.data_step(update) for update in (99, 100, 101)] == [99, 120, 121]
    skips.rewind(100, 110, "again")  # updates 100 to 109 read 120 to 129
    assert [skips.data_step(update) for update in (99, 100)] == [99, 130]
    skips.rewind(150, 160, "later")  # updates 150 to 159 read 180 to 189
    assert [skips.data_step(update) for update in (99, 100, 149, 150)] == [99, 130, 179, 190]
    skips.rewind(50, 155, "further back")  # the way so far: up to 99, 130 to 179, 190 to 194
    assert [skips.data_step(update) for update in (49, 50, 100, 200)] == [49, 195, 245, 345]


def test_no_data_step_is_read_twice_whatever_happens(tmp_path: Path) -> None:
    """Follow a run with four rewinds step by step: on the way that counts, data only goes forward; bad data is gone."""
    skips, update, way, given_up = Skips(tmp_path), 0, {}, set()
    for back, at in ((10, 25), (10, 12), (30, 31), (5, 40)):
        while update < at:
            way[update] = skips.data_step(update)
            update += 1
        given_up |= {way.pop(u) for u in range(back, at)}
        skips.rewind(back, at, "")
        update = back
    while update < 60:
        way[update] = skips.data_step(update)
        update += 1
    read = [way[u] for u in range(60)]
    assert read == sorted(set(read)) and not given_up & set(read)


def test_a_restart_follows_the_same_map(tmp_path: Path) -> None:
    skips = Skips(tmp_path)
    skips.rewind(3, 9, "loss above 4", ["doc-1"])
    again = Skips(tmp_path)
    assert again.rewinds == skips.rewinds and again.count == 1 and again.data_step(3) == 9


def test_a_kill_while_writing_leaves_the_old_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Skips(tmp_path).rewind(3, 9, "first")

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Skips(tmp_path).rewind(3, 5, "second")
    assert [rewind.reason for rewind in Skips(tmp_path).rewinds] == ["first"]


@pytest.mark.parametrize("text", ["", "[", "{}x", '[{"update": 1}]', '{"a": 1}', "[3]"])
def test_a_damaged_map_is_an_error_and_not_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / "rewinds.json").write_text(text)
    with pytest.raises(ArtifactError, match="skipped batches"):
        Skips(tmp_path)


def test_going_forward_is_no_rewind(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Skips(tmp_path).rewind(5, 5, "")


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


def test_the_record_has_a_line_per_update_and_is_cut_back_on_resume(tmp_path: Path) -> None:
    skips = Skips(tmp_path)
    skips.begin(0)
    skips.log(Skipped(2, math.nan, 1.0, "loss not finite"), ["doc-7", "doc-8"])
    skips.log(Skipped(5, 9.5, 1.0, "loss 9.5 above 3"))
    skips.rewind(4, 6, "spike")
    skips.log(Skipped(4, 8.0, 1.0, "loss 8 above 3"))  # reads data step 6
    assert lines(tmp_path)[0] == {
        "step": 2,
        "loss": None,
        "norm": 1.0,
        "reason": "loss not finite",
        "data_step": 2,
        "documents": ["doc-7", "doc-8"],
    }
    with open(tmp_path / "skipped.jsonl", "a") as file:
        file.write('{"step": 9, "da')  # killed while writing
    again = Skips(tmp_path)
    again.begin(4)  # goes on from update 4, which reads data step 6 anew; 5 was given up and stays on record
    assert [line["data_step"] for line in lines(tmp_path)] == [2, 5]


def test_a_full_disk_loses_a_line_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    Skips(tmp_path).log(Skipped(1, 1.0, 1.0, ""))
    with pytest.raises(DiskFullError):  # this one decides what is read next, so it must be known
        Skips(tmp_path).rewind(1, 2, "")


def test_other_ranks_keep_the_map_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skips_module, "rank", lambda: 1)
    skips = Skips(tmp_path)
    skips.rewind(3, 9, "")
    skips.log(Skipped(1, 1.0, 1.0, ""))
    assert skips.data_step(3) == 9 and not list(tmp_path.iterdir())
