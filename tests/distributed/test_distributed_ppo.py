"""PPO in two processes ends like PPO in one: sampling, values, whitening and the coefficient are shared out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_toys import in_ranks

from luopan.train.tracking import read_metrics

SCRIPT = str(Path(__file__).with_name("ppo_script.py"))
pytestmark = [pytest.mark.distributed, pytest.mark.slow]  # 12 s


def test_two_ranks_end_like_one(tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder, ranks in ((alone, 1), (both, 2)):
        folder.mkdir()
        in_ranks([SCRIPT, str(folder)], ranks=ranks)
    one, first, second = (torch.load(file) for file in (alone / "rank-0.pt", both / "rank-0.pt", both / "rank-1.pt"))
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-4, msg=name)
    for line, other in zip(read_metrics(alone), read_metrics(both), strict=True):
        for key in ("reward", "kl", "kl_coef", "explained_variance", "policy_loss", "value_loss", "tokens"):
            assert line[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), (line["step"], key)
