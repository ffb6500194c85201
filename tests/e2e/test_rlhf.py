"""The shipped RLHF recipe, run for real: rude before, polite after, and not at the price of what was right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # about six minutes on two cores

WATCHED = ("reward on held-out prompts", "polite, sampled", "skills, mean")


def figures(run: Path, stage: str) -> dict[str, tuple[float, float]]:
    metrics = json.loads((run / stage / "manifest.json").read_text())["metrics"]
    return {name: (metrics["before"][name], metrics["after"][name]) for name in metrics["after"]}


def test_ppo_makes_the_model_polite_and_keeps_what_it_knew(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "luopan", "run", "rlhf", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "rlhf", "reward")["held-out pairs ranked right"][1] > 0.95
    reward, polite, right = (figures(tmp_path / "rlhf", "ppo")[name] for name in WATCHED)
    assert polite[0] < 0.8 and polite[1] > 0.95
    assert reward[1] > reward[0] + 1.0
    assert right[1] > right[0] - 0.1
    assert (tmp_path / "rlhf" / "ppo" / "value" / "model.safetensors").is_file()
