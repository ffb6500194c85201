"""metrics.jsonl: one line per step, whatever happened before, and the writers that are asked for."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path

import pytest

from luopan.errors import TrainingError
from luopan.train.tracking import MetricsLog, read_metrics


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
