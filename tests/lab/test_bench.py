"""Measurements of this machine: that they measure, and what is drawn and written of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from luopan.errors import LuopanError
from luopan.lab.benchmark import bench, measures
from luopan.lab.benchmark.measures import Measurement, fastest

CPU = torch.device("cpu")


def test_products_take_longer_the_larger_they_are_and_rates_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "SIZES", (64, 256, 0))
    found = list(measures.matmuls(CPU, 0.05, None))
    assert [one.name for one in found] == ["float32 64", "float32 256", "bfloat16 64", "bfloat16 256"]
    assert all(1e8 < one.value < 1e14 for one in found)
    assert [one.intensity for one in found[:2]] == pytest.approx([64 / 6, 256 / 6])  # 2 n^3 / (3 n^2 * 4)
    assert found[2].intensity == pytest.approx(64 / 3)


def test_the_fastest_round_counts() -> None:
    naps = iter([0.0, 0.03, 0.01, 0.02])

    def work() -> None:
        import time

        time.sleep(next(naps, 0.02))

    assert 0.009 < fastest(work, lambda: None, 0.0) < 0.02


def test_memory_and_disk_and_data_and_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "STREAM_BYTES", 2**22)
    monkeypatch.setattr(measures, "DISK_BYTES", 2**23)
    monkeypatch.setattr(measures, "CHECKPOINT_PARAMETERS", 10_000)
    found, about = bench.run_bench(tmp_path / "runs", groups=("memory", "disk", "data"), seconds=0.05)
    names = [f"{one.group} {one.name}" for one in found]
    assert names == ["memory copy", "memory fill", "memory add", "disk write", "disk read", "disk checkpoint",
                     "data rows of 1,024 tokens"]  # fmt: skip
    assert all(one.value > 0 for one in found)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
    assert about["versions"] and about["cores"] >= 1


def test_ranks_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    from luopan.lab.benchmark.collectives import collectives

    found = list(collectives(2, 0.1, 1e12))
    assert len(found) == 9 and all("2 ranks, gloo" in one.note for one in found)
    assert all(1e4 < one.value < 1e12 and one.share is not None for one in found)


def test_files_and_picture(tmp_path: Path) -> None:
    found = [Measurement("matmul", "float32 64", 1e9, "FLOP", intensity=10.0),
             Measurement("matmul", "float32 1024", 4e9, "FLOP", 8e9, intensity=170.0),
             Measurement("memory", "copy", 1e9, "B")]  # fmt: skip
    about = {"accelerator": None, "processor": "a processor"}
    written = bench.write_bench(tmp_path / "out", found, about)
    assert [file.name for file in written] == ["bench.json", "roofline.png"]
    kept = json.loads(written[0].read_text(encoding="utf-8"))
    assert kept["measurements"][1]["share"] == 0.5
    assert written[1].read_bytes()[:4] == b"\x89PNG" and written[1].stat().st_size > 10_000
    assert "50% of the data sheet" in bench.line(found[1])
    assert [file.name for file in bench.write_bench(tmp_path / "less", found[2:], about)] == ["bench.json"]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(LuopanError, match="no measurement 'matmull'"):
        bench.run_bench(tmp_path, groups=("matmull",))
    with pytest.raises(LuopanError, match="seconds"):
        bench.run_bench(tmp_path, seconds=0)
