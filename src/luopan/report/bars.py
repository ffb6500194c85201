"""Bar charts: categories down the page, beside every bar its value and standard error; `BarChart` in, SVG out."""

from __future__ import annotations

from luopan.report.data import BarChart
from luopan.report.markup import Markup, join, tag
from luopan.report.numbers import error, known, number, with_unit
from luopan.report.scales import Scale, extent, tick_label
from luopan.report.svg import WIDTH, drawing, empty, labelled, legend, rect, text, text_width
from luopan.report.svg import line as rule

BAR, BAR_GAP, GROUP_GAP = 15, 3, 13


def bar_chart(chart: BarChart, width: float = WIDTH) -> Markup:
    """Categories down the page; beside every bar its value and standard error."""
    numbers = [v for bars in chart.bars for v in bars.values if known(v)]
    if not numbers or not chart.categories:
        return empty(chart.title, width)
    tops = [
        (v or 0.0) + ((bars.stderr[i] or 0.0) if bars.stderr else 0.0)
        for bars in chart.bars
        for i, v in enumerate(bars.values)
        if known(v)
    ]
    extra = [m.value for m in chart.marks] + [c for c in chart.chance or [] if known(c)]
    low, high = extent([*tops, *numbers, *extra], from_zero=True, pad=0.02)
    if chart.unit == "%" and low >= 0 and high > 0.6:
        high = 1.0
    left = min(max(text_width(c) for c in chart.categories) + 18, width * 0.4)
    right = max(
        text_width(_bar_value(chart, b, i)) for b in range(len(chart.bars)) for i in range(len(chart.categories))
    )
    x = Scale(low, high, left, width - right - 14)
    keys, key_height = _bar_keys(chart, width)
    top = key_height + (16 * len(chart.marks) if chart.marks else 4) + 2
    gap = GROUP_GAP if chart.n is None or len(chart.bars) > 1 else GROUP_GAP + 9  # room for "n = …" below the name
    group = len(chart.bars) * (BAR + BAR_GAP) - BAR_GAP
    height = top + len(chart.categories) * (group + gap) + 24
    bottom = height - 24
    ticks = x.ticks(4)
    parts = [keys]
    parts += [rule(x(t), top, x(t), bottom, "gridline") for t in ticks]
    parts += [text(x(t), bottom + 16, tick_label(t, ticks, chart.unit), "tick", "middle") for t in ticks]
    for i in range(len(chart.categories)):
        parts.append(_bar_group(chart, i, x, top + gap / 2 + i * (group + gap), group, left))
    parts.append(rule(x(max(low, 0.0)), top, x(max(low, 0.0)), bottom, "axis"))
    parts.append(_bar_marks(chart, x, left, width, top, bottom))
    return drawing(width, height, _describe_bars(chart), *parts)


def _shade(chart: BarChart, index: int) -> str:
    """One series: solid. Two: pale and outlined, then solid. More: a ramp from pale to solid, which grey keeps too."""
    count = len(chart.bars)
    if index == count - 1:
        return "bar"
    return "bar pale" if count == 2 else f"bar ramp{round(1 + 4 * index / (count - 1))}"


def _bar_value(chart: BarChart, bars: int, i: int) -> str:
    series = chart.bars[bars]
    stderr = series.stderr[i] if series.stderr else None
    spread = error(stderr, chart.unit)
    return f"{number(series.values[i], chart.unit, stderr)}{' ' + spread if spread else ''}"


def _bar_group(chart: BarChart, i: int, x: Scale, top: float, group: float, left: float) -> Markup:
    """One category: its name and n, its bars, and its chance level behind the values."""
    count = chart.n[i] if chart.n else None
    middle = top + group / 2 + 4
    name = chart.categories[i]
    parts = [labelled(name, left - 14, left - 9, middle - (6 if count is not None else 0), "name", "end")]
    if count is not None:
        parts.append(text(left - 9, middle + 8, f"n = {count:,}", "tick", "end"))
    parts += [_bar_shape(chart, b, i, x, top + b * (BAR + BAR_GAP)) for b in range(len(chart.bars))]
    level = chart.chance[i] if chart.chance else None
    if level is not None and known(level):
        title = tag("title", f"{name}, {chart.chance_name}: {with_unit(level, chart.unit)}")
        parts.append(rect(x(level) - 1.5, top - 4, 3, group + 8, "chance", title))
    parts += [_bar_text(chart, b, i, x, top + b * (BAR + BAR_GAP)) for b in range(len(chart.bars))]
    return tag("g", *parts, class_="s1")


def _reach(chart: BarChart, bars: int, i: int) -> tuple[float | None, float]:
    """The value, if it is a number, and its standard error (0 where not given)."""
    series = chart.bars[bars]
    value = series.values[i]
    stderr = series.stderr[i] if series.stderr else None
    return (value if known(value) else None), (stderr if stderr is not None and known(stderr) else 0.0)


def _bar_shape(chart: BarChart, bars: int, i: int, x: Scale, y: float) -> Markup:
    value, stderr = _reach(chart, bars, i)
    if value is None:
        return Markup("")
    count = chart.n[i] if chart.n else None
    cases = f" (n = {count:,})" if count is not None else ""
    title = tag("title", f"{chart.categories[i]}, {chart.bars[bars].name}: {_bar_value(chart, bars, i)}{cases}")
    zero, end = x(min(max(0.0, x.low), x.high)), x(value)
    parts = [rect(min(zero, end), y, abs(end - zero), BAR, _shade(chart, bars), title, rx=2)]
    if stderr > 0:
        low, high, middle = x(max(value - stderr, x.low)), x(min(value + stderr, x.high)), y + BAR / 2
        parts.append(rule(low, middle, high, middle, "err"))
        parts += [rule(at, middle - 3, at, middle + 3, "err") for at in (low, high)]
    return join(parts)


def _bar_text(chart: BarChart, bars: int, i: int, x: Scale, y: float) -> Markup:
    value, stderr = _reach(chart, bars, i)
    zero = x(min(max(0.0, x.low), x.high))
    if value is None:
        return text(zero + 6, y + BAR - 3, "not measured", "muted")
    end = max(x(min(value + stderr, x.high)), zero)
    return text(end + 6, y + BAR - 3, _bar_value(chart, bars, i), "value")


def _bar_marks(chart: BarChart, x: Scale, left: float, width: float, top: float, bottom: float) -> Markup:
    """Vertical lines across all categories, each labelled on a row of its own above the bars."""
    parts = []
    for i, mark in enumerate(chart.marks):
        at, row = x(mark.value), top - 16 * (len(chart.marks) - i)
        before = at > (left + width) / 2
        words = f"{mark.label}: {with_unit(mark.value, chart.unit)}"
        parts.append(rule(at, row + 4, at, bottom, "mark"))
        parts.append(text(at + (-5 if before else 5), row + 13, words, "marked", "end" if before else None))
    return join(parts)


def _bar_keys(chart: BarChart, width: float) -> tuple[Markup, float]:
    keys = []
    if len(chart.bars) > 1:
        keys = [
            (b.name, tag("g", rect(4, -9, 16, 10, _shade(chart, i), rx=2), class_="s1"))
            for i, b in enumerate(chart.bars)
        ]
    if chart.chance and any(known(c) for c in chart.chance):
        keys.append((chart.chance_name, rect(10, -11, 3, 14, "chance")))
    return legend(keys, 8, 2, width - 16)


def _describe_bars(chart: BarChart) -> str:
    words = [f"Bar chart: {chart.title}."]
    for i, name in enumerate(chart.categories):
        values = ", ".join(
            (f"{b.name} " if len(chart.bars) > 1 else "") + _bar_value(chart, k, i) for k, b in enumerate(chart.bars)
        )
        words.append(f"{name}: {values}.")
    words += [f"{m.label}: {with_unit(m.value, chart.unit)}." for m in chart.marks]
    return " ".join(words)
