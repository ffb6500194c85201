"""The charts: what they draw stands where the numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from luopan.report import lineage, pictures
from luopan.report.charts import bar_chart, draw, funnel_chart, line_chart, line_notes, lineage_graph, mixture_chart
from luopan.report.curves import stage_curves
from luopan.report.data import BarChart, Bars, Figure, Funnel, Line, LineChart, Mark, Mixture, RunReport, StageReport
from luopan.report.scales import Scale, extent, log_ticks, nice_ticks, smoothed, thin, tick_label
from luopan.report.shares import before_after
from luopan.report.tables import heat_table, table

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def with_class(svg: str, name: str) -> list[ElementTree.Element]:
    return [element for element in parse(svg).iter() if name in (element.get("class") or "").split()]


def path_points(d: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r"(-?[\d.]+) (-?[\d.]+)", d)]


def test_scale_and_ticks() -> None:
    x = Scale(2.0, 6.0, 100.0, 300.0)
    assert [x(2), x(4), x(6)] == [100, 200, 300]
    y = Scale(1.0, 100.0, 200.0, 0.0, log=True)
    assert y(10) == pytest.approx(100) and y(0) > 200
    assert nice_ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(1.9, 7.6, 5) == [2, 4, 6]
    assert nice_ticks(3, 3) == [3]
    assert log_ticks(1e-5, 1e-2) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert [tick_label(t, [0, 5000, 10000, 15000]) for t in (0, 5000, 15000)] == ["0", "5k", "15k"]
    assert tick_label(0.5, [0, 0.5, 1.0], "%") == "50%"
    assert tick_label(0.002, [0, 0.001, 0.002]) == "2e\u22123"
    assert extent([]) == (0, 1) and extent([None, float("nan")]) == (0, 1)
    low, high = extent([3.0, 3.0])
    assert low < 3 < high


def test_smoothing_and_thinning() -> None:
    assert smoothed([(i, 2.0) for i in range(50)]) == [(i, 2.0) for i in range(50)]
    rising = [(float(i), float(i)) for i in range(100)]
    assert [y for _, y in smoothed(rising)] == pytest.approx([y for _, y in rising]), (
        "a straight line stays itself, ends included"
    )
    assert smoothed([(0, 0.0), (1, 3.0), (2, 0.0)])[1] == (1, 1.0)
    spiky = [(float(i), 100.0 if i == 4321 else 1.0) for i in range(10_000)]
    thinned = thin(spiky, 240)
    assert len(thinned) < 300 and (4321.0, 100.0) in thinned
    assert thinned[0] == spiky[0] and thinned[-1] == spiky[-1] and thinned == sorted(thinned)


def test_line_chart_puts_points_in_proportion() -> None:
    chart = LineChart(
        title="t",
        unit="nats",
        lines=[
            Line(name="before", style="dashed", points=[(0, 1), (5, 2), (10, 3)]),
            Line(name="after", points=[(0, 3), (5, 2), (10, 1)], stderr=[0.1, 0.1, 0.1]),
            Line(name="held out", style="points", points=[(0, 1), (10, 3)]),
        ],
        x_marks=[Mark(value=5, label="here")],
        y_marks=[Mark(value=2, label="bigram")],
    )
    svg = line_chart(chart)
    curves = [e for e in with_class(svg, "ln") if e.tag == SVG + "path"]
    a, b, c = path_points(curves[0].get("d") or "")
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2) and a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)
    width, height = (float(v) for v in (parse(svg).get("viewBox") or "").split()[2:])
    assert 20 < a[0] < 70 and width - 30 < c[0] < width and 0 < c[1] < a[1] < height, "the curve fills the picture"
    assert a[1] > c[1], "larger values stand higher"
    assert curves[0].get("stroke-dasharray") and not curves[1].get("stroke-dasharray")
    marks = with_class(svg, "mark")
    assert float(marks[0].get("x1") or 0) == pytest.approx(b[0], abs=0.2)
    assert float(marks[1].get("y1") or 0) == pytest.approx(b[1], abs=0.2)
    assert len(with_class(svg, "band")) == 1
    assert len({e.tag for e in with_class(svg, "dot")}) == 1
    label = parse(svg).get("aria-label") or ""
    assert "before: 1\u00a0nats at step 0, 3\u00a0nats at step 10." in label and "Marked: here at 5." in label


def test_what_a_line_chart_leaves_out_it_says() -> None:
    points = [(float(i), 9.0 if i == 0 else 1.0 + i % 2) for i in range(100)]
    chart = LineChart(title="t", lines=[Line(name="a", points=points)], y_max=2.1, smooth=True)
    assert line_notes(chart) == [
        "Moving average (4% of the points) over the faint raw curve.",
        "Cut off above: it reaches 9.",
    ]
    bad = LineChart(
        title="t", y_log=True, lines=[Line(name="a", points=[(0, float("nan")), (1, 0), (2, 5), (3, None)])]
    )
    assert line_notes(bad) == [
        "1 value is not finite and not drawn.",
        "Values of zero or less have no place on a logarithmic axis and are not drawn.",
    ]
    assert line_notes(LineChart(title="t", lines=[Line(name="a", points=[(0, 1)])])) == []
    assert "1 value" not in str(line_notes(LineChart(title="t", lines=[Line(name="a", points=[(0, None), (1, 1)])])))


def test_bars_are_as_long_as_their_values() -> None:
    chart = BarChart(
        title="t",
        unit="%",
        categories=["adding", "spelling"],
        bars=[Bars(name="before", values=[0.2, None]), Bars(name="after", values=[0.8, 0.4], stderr=[0.05, None])],
        chance=[0.1, None],
        n=[200, 50],
        marks=[Mark(value=0.5, label="goal")],
    )
    svg = bar_chart(chart)
    widths = [float(e.get("width") or 0) for e in with_class(svg, "bar") if e.find(SVG + "title") is not None]
    assert widths[1] / widths[0] == pytest.approx(4, rel=0.01) and widths[2] / widths[0] == pytest.approx(2, rel=0.01)
    assert len(with_class(svg, "err")) == 3 and "not measured" in svg and "n = 200" in svg
    assert "adding: before 20.0%, after 80.0% ±\u00a05.0." in (parse(svg).get("aria-label") or "")
    with pytest.raises(ValueError, match="one value per category"):
        BarChart(title="t", categories=["a"], bars=[Bars(name="x", values=[1, 2])])


def test_mixture_and_funnel_are_in_proportion() -> None:
    svg = mixture_chart(
        Mixture(title="m", rows={"bytes": {"a": 3, "b": 1, "c": 0}, "tokens": {"a": 1, "b": 1}}, unit="bytes")
    )
    widths = [float(e.get("width") or 0) for e in with_class(svg, "part") if e.find(SVG + "title") is not None]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.01) and widths[2] == pytest.approx(widths[3])
    assert widths[0] + widths[1] == pytest.approx(widths[2] + widths[3], abs=0.2), "every row fills its whole width"
    many = mixture_chart(Mixture(title="m", rows={"": {f"s{i}": 20 - i for i in range(15)}}))
    assert "7 others" in many and len({e.get("class") for e in with_class(many, "part")}) == 9
    shares = [float(s) for s in re.findall(r"([\d.]+)%", parse(many).get("aria-label") or "")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    funnel = funnel_chart(pictures.curation_funnel([("read", 1000), ("long enough", 750), ("same", 750)]))
    kept = [float(e.get("width") or 0) for e in with_class(funnel, "bar")]
    assert kept[1] / kept[0] == pytest.approx(0.75, rel=0.01)
    assert "\u2212250 (25.0%)" in funnel and "nothing removed" in funnel and len(with_class(funnel, "lost")) == 1


def test_nothing_is_drawn_as_nothing() -> None:
    for item in (
        LineChart(title="t", lines=[Line(name="a", points=[(0, None)])]),
        BarChart(title="t", categories=["a"], bars=[Bars(name="x", values=[None])]),
        BarChart(title="t", categories=[], bars=[]),
        Mixture(title="t", rows={"a": {}}),
        Funnel(title="t", steps=[]),
    ):
        assert "no data" in draw(item)
        parse(draw(item))
    assert lineage_graph([]) == "" and before_after(Figure(name="x")) == ""


def test_one_point_and_zero_width_ranges_still_draw() -> None:
    svg = line_chart(LineChart(title="t", lines=[Line(name="a", points=[(5, 2.0)])]))
    assert with_class(svg, "dot") and "nan" not in svg
    assert "nan" not in bar_chart(BarChart(title="t", categories=["a"], bars=[Bars(name="x", values=[0.0])]))
    assert "nan" not in bar_chart(BarChart(title="t", categories=["a"], bars=[Bars(name="x", values=[-2.0])]))


def test_before_after_shows_the_way_and_the_verdict() -> None:
    svg = before_after(
        Figure(name="acc", unit="%", before=0.25, after=0.75, baseline=0.5, stderr_after=0.02), width=118
    )
    was, now = with_class(svg, "was")[0], with_class(svg, "is")[0]
    assert float(was.get("cx") or 0) == pytest.approx(34) and float(now.get("cx") or 0) == pytest.approx(84)
    assert float(with_class(svg, "chance")[0].get("x") or 0) == pytest.approx(57.5)
    assert "good" in (now.get("class") or "") and "better" in (parse(svg).get("aria-label") or "")
    worse = before_after(Figure(name="loss", before=1, after=2, higher_is_better=False))
    assert "bad" in (with_class(worse, "is")[0].get("class") or "")


def test_every_logged_series_is_drawn_once(report: RunReport) -> None:
    for stage in report.stages:
        main, small, rest = stage_curves(stage)
        drawn = sum(len(chart.lines) for chart in [*main, *small, *rest])
        counters = {"tokens", "step", "seconds"}
        assert drawn == len([name for name in stage.series if name not in counters])
    first = stage_curves(report.stages[2])[0][0]
    assert [line.name for line in first.lines] == ["train", "held out"] and first.x_marks[0].label == "decay starts"


def test_a_steep_start_is_cut_but_a_late_spike_is_not() -> None:
    start = [(float(s), 8.0 if s < 4 else 2.0 + s % 3 / 10) for s in range(200)]
    spike = [(float(s), 8.0 if s == 150 else 2.0 + s % 3 / 10) for s in range(200)]
    cut, kept = (stage_curves(StageReport(kind="k", name="n", series={"loss": p}))[0][0].y_max for p in (start, spike))
    assert cut is not None and 2.2 < cut < 3 and kept is None


def test_lineage_lanes_never_run_into_each_other() -> None:
    names = [f"s{i}" for i in range(9)]
    stages = [
        StageReport(
            kind="k",
            name=name,
            inputs={f"r{j}": names[j] for j in range(i) if (i * 3 + j) % 2 == 0}
            | ({"hub": "some/model"} if i == 4 else {}),
        )
        for i, name in enumerate(names)
    ]
    boxes = lineage._boxes(stages)
    order = {box.name: i for i, box in enumerate(boxes)}
    lanes = lineage._lanes(boxes, order)
    spans: dict[str, tuple[int, int]] = {}
    for i, box in enumerate(boxes):
        for _, source in box.inputs:
            spans[source] = (order[source], i)
    for a, (start_a, end_a) in spans.items():
        for b, (start_b, end_b) in spans.items():
            if a < b and lanes[a] == lanes[b]:
                assert end_a <= start_b or end_b <= start_a, (a, b)
    svg = lineage_graph(stages)
    assert len(with_class(svg, "head")) == sum(len(s.inputs) for s in stages)
    assert len(with_class(svg, "node")) == 10 and "from outside this run" in svg


def test_a_stage_that_names_a_later_one_is_not_lost() -> None:
    svg = lineage_graph([StageReport(kind="k", name="a", inputs={"model": "b"}), StageReport(kind="k", name="b")])
    assert "(b)" in svg and not with_class(svg, "head")


def test_heat_table_places_colour_between_chance_and_best() -> None:
    heat = pictures.eval_table(
        {"base": {"qa": (0.25, 0.03), "bits": 4.0}, "sft": {"qa": 0.625, "bits": 2.0}, "none": {}},
        chance={"qa": 0.25},
        units={"bits": "bits/byte"},
        higher_is_better={"bits": False},
        n={"qa": 100},
    )
    html = heat_table(heat)
    assert re.findall(r"--heat:([\d.]+)", html) == ["0.00", "0.00", "0.50", "1.00"]
    assert html.count('class="star"') == 2 and "±\u00a03.0" in html and "chance level" in html and "lower" in html
    assert html.count('<td class="num">–</td>') >= 2, "what was not measured is a dash, not a zero"


def test_sft_mixture_is_worked_out_by_hand() -> None:
    made = pictures.sft_mixture(
        [
            {"source": "a", "rows": 10, "tokens": 300, "in_context": 100, "in_response": 200, "turns": 20},
            {"source": "b", "rows": 5, "tokens": 100, "in_context": 50, "in_response": 50, "turns": 5},
            {"source": "c", "rows": 0, "tokens": 0, "in_context": 0, "in_response": 0, "turns": 0},
        ]
    )
    assert made.rows[0] == ["a", 10, 0.75, 300, 30.0, 10.0, 20.0, 2.0]
    assert made.rows[2] == ["c", 0, 0.0, 0, None, None, None, None]
    assert made.total == [
        "all",
        15,
        1.0,
        400,
        pytest.approx(400 / 15),
        10.0,
        pytest.approx(250 / 15),
        pytest.approx(25 / 15),
    ]
    html = table(made)
    assert "75.0%" in html and '<td class="num">–</td>' in html


def test_tokenizer_fertility_takes_one_tokenizer_or_several() -> None:
    one = pictures.tokenizer_fertility({"docs": 2.5})
    two = pictures.tokenizer_fertility({"ours": {"docs": 2.5}, "other": {"docs": 3.0, "web": 2.0}})
    assert one.categories == ["docs"] and one.bars[0].values == [2.5]
    assert two.categories == ["docs", "web"] and two.bars[0].values == [2.5, None]
