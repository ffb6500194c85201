"""Trainings in two processes end like one, in every layout; checkpoints move between one and two; a killed rank is
no loss."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import fit_script
import pytest
import torch
from rank_toys import environment, in_ranks

from luopan.train.tracking import read_metrics

SCRIPT = str(Path(__file__).with_name("fit_script.py"))
TIMED = ("seconds", "feed_seconds", "tokens_per_second", "memory", "data_wait")
pytestmark = pytest.mark.distributed


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], variant: str) -> None:
    # Muon's iterations run in bf16: what differs in the last fp32 digit going in differs in the third one coming out.
    tolerance = 1e-4 if variant == "muon" else 1e-5
    assert set(one) == set(other)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("variant", list(fit_script.VARIANTS))
def test_two_end_like_one_and_go_on_with_each_other(tmp_path: Path, variant: str) -> None:
    alone = fit_script.train(tmp_path / "alone", variant)
    fit_script.stop(tmp_path / f"{variant}-one-to-two", variant)
    in_ranks([SCRIPT, str(tmp_path), "all_ways", variant], ranks=2)
    for name in ("two", "one-to-two"):
        found = [torch.load(tmp_path / f"{variant}-{name}-{rank}.pt") for rank in (0, 1)]
        assert all(torch.equal(found[0][key], found[1][key]) for key in alone)
        close(alone, found[0], variant)
    two_to_one = tmp_path / "two-to-one"
    shutil.copytree(tmp_path / f"{variant}-stopped", two_to_one)
    close(alone, fit_script.train(two_to_one, variant), variant)
    for folder in (tmp_path / f"{variant}-two", two_to_one, tmp_path / f"{variant}-one-to-two"):
        lines = zip(read_metrics(tmp_path / "alone"), read_metrics(folder), strict=True)
        for one, other in lines:
            kept = {key for key in one if not any(key.startswith(word) for word in TIMED)}
            assert {key: one[key] for key in kept} == pytest.approx({key: other[key] for key in kept}, rel=1e-3)


def test_a_killed_rank_is_started_again_by_torchrun_and_nothing_is_lost(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [sys.executable, *launcher, SCRIPT, str(tmp_path), "killed", "full_shard"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    lines = read_metrics(tmp_path / "killed")
    assert [line["step"] for line in lines] == list(range(1, 7))
    unharmed = tmp_path / "unharmed"
    unharmed.mkdir()
    (unharmed / "died").write_text("nobody needs to")
    in_ranks([SCRIPT, str(unharmed), "killed", "full_shard"], ranks=2)
    for rank in (0, 1):
        found, whole = (torch.load(folder / f"killed-{rank}.pt") for folder in (tmp_path, unharmed))
        assert all(torch.equal(found[name], value) for name, value in whole.items())
