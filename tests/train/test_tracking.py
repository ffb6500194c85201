"""metrics.jsonl: one line per step, whatever happened before, and the writers that are asked for."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path

import pytest

from luopan.errors import DiskFullError, TrainingError
from luopan.train import tracking
from luopan.train.tracking import MetricsLog, append_whole, read_metrics


def test_lines_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.begin(0)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1.0})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # a kill in the middle of a line
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]

    again = MetricsLog(tmp_path)
    again.begin(20)
    again.write({"step": 30, "loss": 2.0})
    again.close()
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 1.0},
        {"step": 30, "loss": 2.0},
    ]


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.begin(0)
    log.write({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "loss": None, "grad_norm": None}


def test_no_file_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_tensorboard_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begin, steps in ((0, (1, 2, 3)), (1, (2,))):
        log = MetricsLog(tmp_path, ["tensorboard"])
        log.begin(begin)
        for step in steps:
            log.write({"step": step, "loss": float(step + begin), "rewards/margins": 0.5})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 3.0)]
    assert "rewards/margins" in events.Tags()["scalars"] and "step" not in events.Tags()["scalars"]


class FakeRun:
    """Stands where `wandb` would: the calls are those of its documentation."""

    def __init__(self) -> None:
        self.calls: list = []

    def init(self, **settings) -> None:
        self.calls.append(settings)

    def log(self, figures: dict, step: int) -> None:
        self.calls.append((step, figures))

    def finish(self) -> None:
        self.calls.append("finish")


def test_wandb_and_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    fake = FakeRun()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = MetricsLog(tmp_path / "quickstart" / "sft.partial", ["wandb"], {"learning_rate": 1})
    log.begin(0)
    log.write({"step": 3, "loss": 0.5})
    log.close()
    assert fake.calls == [
        {"project": "luopan", "name": "quickstart-sft", "config": {"learning_rate": 1}},
        (3, {"loss": 0.5}),
        "finish",
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = builtins.__import__

    def without(module: str, *rest, **kwargs):
        if module.split(".")[-1] in (name, "tensorboard"):
            raise ImportError(module)
        return real(module, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    log = MetricsLog(tmp_path, [name])
    with pytest.raises(TrainingError, match=f"{name}, which is not installed"):
        log.begin(0)


class Failing(FakeRun):
    """The service goes away after the first line."""

    def log(self, figures: dict, step: int) -> None:
        super().log(figures, step)
        if step > 1:
            raise ConnectionError("no route to host")


def test_a_writer_that_fails_is_told_of_once_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    fake, notes = Failing(), []
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = MetricsLog(tmp_path, ["wandb"], note=notes.append)
    log.begin(0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
    log.close()
    assert notes == ["WARNING: wandb failed and gets no more figures: ConnectionError: no route to host"]
    assert [call[0] for call in fake.calls if isinstance(call, tuple)] == [1, 2]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_writer_that_cannot_be_opened_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    class Closed(FakeRun):
        def init(self, **settings) -> None:
            raise PermissionError("no API key")

    notes: list[str] = []
    monkeypatch.setitem(sys.modules, "wandb", Closed())
    log = MetricsLog(tmp_path, ["wandb"], note=notes.append)
    log.begin(0)
    log.write({"step": 1})
    log.close()
    assert len(notes) == 1 and "no API key" in notes[0]


def test_lines_that_a_full_disk_does_not_take_come_later_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    log = MetricsLog(tmp_path, note=notes.append)
    log.begin(0)
    log.write({"step": 1})
    append = tracking.append_whole

    def full(path: Path, data: bytes) -> None:
        with open(path, "ab") as file:  # half a line, as a full disk leaves it
            place = file.tell()
            file.write(data[:4])
            file.truncate(place)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking, "append_whole", full)
    log.write({"step": 2})
    log.write({"step": 3})
    assert len(notes) == 1 and "No space left" in notes[0]
    with pytest.raises(DiskFullError):
        log.close()
    monkeypatch.setattr(tracking, "append_whole", append)
    log.write({"step": 4})
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_appending_is_undone_when_the_disk_fills_in_the_middle(tmp_path: Path) -> None:
    """/dev/full takes nothing; a file system of 4 KiB would take half. The file must be as it was."""
    import io

    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\n")
    real = io.FileIO.write

    class Filling(io.FileIO):
        def write(self, data) -> int:  # type: ignore[override]
            if len(data) < 8:
                raise OSError(28, "No space left on device")
            return real(self, bytes(data[:4]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "open", lambda *arguments, **rest: Filling(path, "ab"), raising=False)
        with pytest.raises(OSError, match="No space"):
            append_whole(path, b"a longer line\n")
    assert path.read_bytes() == b"one\n"
