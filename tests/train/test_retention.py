"""What is kept and what goes, and that nothing goes before its successor was read back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from luopan.train import checkpoint as checkpoints
from luopan.train.config import TrainConfig
from luopan.train.retention import Retention, read_back


def config(**changes) -> TrainConfig:
    return TrainConfig(learning_rate=1e-2, max_steps=100, save_steps=1, logging_steps=1, **changes)


def folders(path: Path, steps) -> None:
    for step in steps:
        checkpoints.checkpoint_path(path, step).mkdir(parents=True)


def test_last_few_every_nth_and_best(tmp_path: Path) -> None:
    folders(tmp_path, range(1, 13))
    keeper = Retention(tmp_path, config(save_total_limit=2, keep_every_steps=5, keep_best="bits"))
    for step, bits in {3: 1.5, 4: 1.2, 6: 1.2, 9: math.nan, 11: 1.9}.items():
        keeper.score(step, {"bits": bits, "loss": -step})
    assert keeper.prune(12) == [1, 2, 3, 6, 7, 8, 9]
    assert checkpoints.steps_saved(tmp_path) == [4, 5, 10, 11, 12]


def test_more_can_be_better(tmp_path: Path) -> None:
    folders(tmp_path, range(1, 5))
    keeper = Retention(tmp_path, config(save_total_limit=1, keep_best="accuracy:max"))
    for step, accuracy in ((1, 0.1), (2, 0.9), (3, 0.2)):
        keeper.score(step, {"accuracy": accuracy})
    keeper.prune(4)
    assert checkpoints.steps_saved(tmp_path) == [2, 4]


def test_scores_survive_a_restart_and_a_damaged_file_only_loses_them(tmp_path: Path) -> None:
    folders(tmp_path, range(1, 5))
    settings = config(save_total_limit=1, keep_best="bits")
    Retention(tmp_path, settings).score(2, {"bits": 1})
    assert Retention(tmp_path, settings).best([1, 2, 3, 4]) == 2
    for text in ("", "[1]", "{", '{"a": 1}', "3"):
        (tmp_path / "scores.json").write_text(text)
        assert Retention(tmp_path, settings).best([1, 2, 3, 4]) is None


def test_what_is_newer_than_the_sound_one_is_left_alone_and_does_not_count(tmp_path: Path) -> None:
    folders(tmp_path, range(1, 6))
    keeper = Retention(tmp_path, config(save_total_limit=2))
    assert keeper.prune(3) == [1]
    assert keeper.prune(99) == []
    assert checkpoints.steps_saved(tmp_path) == [2, 3, 4, 5]


def test_an_upload_that_is_not_verified_keeps_its_checkpoint(tmp_path: Path) -> None:
    folders(tmp_path, range(1, 6))
    safe = {1, 3}
    keeper = Retention(tmp_path, config(save_total_limit=2), may_go=lambda step: step in safe)
    assert keeper.prune(5) == [1, 3]
    safe.add(2)
    assert keeper.prune(5) == [2]


def test_going_back_removes_what_was_made_since(tmp_path: Path) -> None:
    folders(tmp_path, range(1, 6))
    keeper = Retention(tmp_path, config(keep_best="bits", save_total_limit=9))
    keeper.score(5, {"bits": 0.1})
    keeper.score(2, {"bits": 0.5})
    keeper.forget_after(3)
    assert checkpoints.steps_saved(tmp_path) == [1, 2, 3] and keeper.best([1, 2, 3, 5]) == 2


def test_a_metric_that_never_comes_is_told(tmp_path: Path) -> None:
    keeper = Retention(tmp_path, config(keep_best="evla_bits"))
    assert keeper.missing_metric() is None
    keeper.score(1, {"eval_bits": 1.0, "loss": 2.0})
    assert "'evla_bits', which was never measured. There are: eval_bits, loss" in (keeper.missing_metric() or "")
    keeper.score(2, {"evla_bits": 1.0})
    assert keeper.missing_metric() is None


def test_reading_back_sees_other_bytes(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, 1, {"model": {"a": torch.ones(3)}}, {}, identity="me")
    read_back(path)
    data = path / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(Exception, match="other bytes"):
        read_back(path)
