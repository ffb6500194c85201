"""The loss by source over two processes, each of which sees one source, is that of one process that sees both."""

from __future__ import annotations

from pathlib import Path

import pytest
import sources_script
from rank_toys import in_ranks

from luopan.train.tracking import read_metrics

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("layout", ["replicas", "full_shard"])
def test_sums_and_counts_over_ranks(tmp_path: Path, layout: str) -> None:
    sources_script.train(tmp_path / "one", layout)
    in_ranks([str(Path(sources_script.__file__)), str(tmp_path / "two"), layout], ranks=2)
    one, two = (
        [{key: value for key, value in line.items() if "loss" in key} for line in read_metrics(tmp_path / name)]
        for name in ("one", "two")
    )
    assert [set(line) for line in two] == [{"loss", "source/web/loss", "source/code/loss"}] * 2
    for line, other in zip(one, two, strict=True):
        assert other == pytest.approx(line, rel=1e-4)
    # 15 targets in a row of web, 10 in one of code
    assert two[0]["loss"] == pytest.approx(0.6 * two[0]["source/web/loss"] + 0.4 * two[0]["source/code/loss"])
