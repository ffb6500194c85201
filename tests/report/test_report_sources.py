"""The loss by source is one picture with a line per source."""

from __future__ import annotations

from luopan.report.curves import SOURCE, stage_curves
from luopan.report.data import Mixture, StageReport
from luopan.report.shares import mixture_chart
from luopan.train.window import SOURCE_PREFIX, SOURCE_SUFFIX


def test_one_chart_for_all_sources() -> None:
    points = [(float(i), 3.0 - i / 10) for i in range(9)]
    series = {"loss": points, "source/web/loss": points, "source/code/v2/loss": points, "source/odd": points}
    main, _, rest = stage_curves(StageReport(kind="pretrain", name="base", series=series))
    chart = next(chart for chart in main if chart.title == "Loss by source")
    assert [line.name for line in chart.lines] == ["code/v2", "web"]
    assert [chart.title for chart in rest] == ["Source: odd"]
    without, _, _ = stage_curves(StageReport(kind="sft", name="sft", series={"loss": points}))
    assert [chart.title for chart in without] == ["Loss"]


def test_the_names_are_those_of_the_metrics() -> None:
    assert SOURCE == (SOURCE_PREFIX, SOURCE_SUFFIX)


def test_amounts_give_way_where_columns_are_narrow() -> None:
    """Three or more rows: the key shows shares alone, since share and amount would run into each other."""
    parts = {"web": 123_400.0, "code": 76_600.0}
    two = str(mixture_chart(Mixture(title="m", rows={"a": parts}, unit="tokens"), 420))
    many = str(mixture_chart(Mixture(title="m", rows=dict.fromkeys(("a", "b", "c"), parts), unit="tokens"), 420))
    assert ">61.7% · 123k" in two
    assert ">61.7% · 123k" not in many and many.count(">61.7%</text>") == 3
