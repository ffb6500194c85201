"""Line charts: curves over steps, positions or tokens, with marks on either axis; `LineChart` in, SVG out."""

from __future__ import annotations

from luopan.report.data import Line, LineChart
from luopan.report.markup import Markup, join, tag
from luopan.report.numbers import known, number, with_unit
from luopan.report.scales import Scale, extent, smoothed, thin, tick_label
from luopan.report.svg import SERIES_COLOURS, WIDTH, drawing, empty, legend, marker, path, text, text_width
from luopan.report.svg import line as rule

DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 2", "1 3")
SMOOTH_FROM = 60  # points: shorter curves are drawn as they are
HOVER_POINTS = 24


def line_chart(chart: LineChart, width: float = WIDTH, height: float = 250) -> Markup:
    """Curves over steps, positions or tokens, with marks on either axis."""
    drawn = [(line, _finite(line, chart)) for line in chart.lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return empty(chart.title, width)
    values = [y for _, points in drawn for _, y in points] + [m.value for m in chart.y_marks]
    low, high = extent(values, from_zero=chart.y_from_zero, log=chart.y_log)
    if known(chart.y_max) and chart.y_max is not None and low < chart.y_max < high:
        high = chart.y_max
    places = [x for _, points in drawn for x, _ in points] + [m.value for m in chart.x_marks]
    left_x, right_x = extent(places, log=chart.x_log, pad=0.0)

    smooth = chart.smooth and any(line.style != "points" and len(p) >= SMOOTH_FROM for line, p in drawn)
    solid = smooth or any(line.style == "dashed" for line, _ in drawn)  # then a dash means something else
    keys = [(line.name, _line_key(i, line, solid)) for i, (line, _) in enumerate(drawn)]
    key_markup, key_height = legend(keys, 8, 2, width - 16) if len(keys) > 1 else (Markup(""), 0.0)
    top, bottom = key_height + (24 if _y_name(chart) else 10), height - 36
    y = Scale(low, high, bottom, top, chart.y_log)
    y_ticks = y.ticks(5)
    left = max(text_width(tick_label(t, y_ticks, chart.unit)) for t in y_ticks or [0.0]) + 16
    x = Scale(left_x, right_x, left, width - 16, chart.x_log)
    parts = [
        key_markup,
        _grid(chart, x, y, y_ticks, left, width, top, bottom),
        _clipped(
            left,
            top - 4,
            width - 12 - left,
            bottom - top + 8,
            join(_curve(i, line, points, x, y, chart, smooth, solid) for i, (line, points) in enumerate(drawn)),
        ),
        _marks(chart, x, y, left, width, top, bottom),
    ]
    return drawing(width, height, _describe_lines(chart, drawn), *parts)


def _finite(line: Line, chart: LineChart) -> list[tuple[float, float]]:
    return [
        (float(x), float(v))
        for x, v in line.points
        if v is not None and known(v) and known(x) and (v > 0 or not chart.y_log) and (x > 0 or not chart.x_log)
    ]


def line_notes(chart: LineChart) -> list[str]:
    """What a reader must know to read the picture: smoothing, what was cut off, what could not be drawn."""
    drawn = {line.name: _finite(line, chart) for line in chart.lines}
    notes = []
    if chart.smooth and any(ln.style != "points" and len(drawn[ln.name]) >= SMOOTH_FROM for ln in chart.lines):
        notes.append("Moving average (4% of the points) over the faint raw curve.")
    values = [y for points in drawn.values() for _, y in points]
    if chart.y_max is not None and values and max(values) > chart.y_max:
        notes.append(f"Cut off above: it reaches {with_unit(max(values), chart.unit)}.")
    lost = sum(v is not None and not known(v) for line in chart.lines for _, v in line.points)
    if lost:
        notes.append(f"{lost:,} value{'s are' if lost > 1 else ' is'} not finite and not drawn.")
    if chart.y_log and any(v is not None and known(v) and v <= 0 for line in chart.lines for _, v in line.points):
        notes.append("Values of zero or less have no place on a logarithmic axis and are not drawn.")
    return notes


def _clipped(x: float, y: float, width: float, height: float, inner: Markup) -> Markup:
    """A nested <svg> cuts off what lies outside, without ids that could collide on the page."""
    return tag(
        "svg",
        inner,
        x=x,
        y=y,
        width=width,
        height=height,
        viewBox=f"{x:.1f} {y:.1f} {width:.1f} {height:.1f}",
        overflow="hidden",
    )


def _grid(
    chart: LineChart, x: Scale, y: Scale, y_ticks: list[float], left: float, width: float, top: float, bottom: float
) -> Markup:
    x_ticks = x.ticks(6)
    parts = [rule(left, y(t), width - 14, y(t), "gridline") for t in y_ticks]
    parts += [text(left - 7, y(t) + 4, tick_label(t, y_ticks, chart.unit), "tick", "end") for t in y_ticks]
    parts += [rule(x(t), bottom, x(t), bottom + 4, "axis") for t in x_ticks]
    parts += [text(x(t), bottom + 17, tick_label(t, x_ticks), "tick", "middle") for t in x_ticks]
    parts.append(rule(left, bottom, width - 14, bottom, "axis"))
    parts.append(text((left + width) / 2, bottom + 32, chart.x_label, "label", "middle"))
    if _y_name(chart):
        parts.append(text(8, top - 11, _y_name(chart), "label"))
    return join(parts)


def _y_name(chart: LineChart) -> str:
    unit = "" if chart.unit == "%" else chart.unit
    return f"{chart.y_label} ({unit})" if chart.y_label and unit else chart.y_label or unit


def _curve(
    index: int,
    line: Line,
    points: list[tuple[float, float]],
    x: Scale,
    y: Scale,
    chart: LineChart,
    smooth: bool,
    solid: bool,
) -> Markup:
    parts: list[Markup] = []
    place = [(x(a), y(b)) for a, b in points]
    if line.stderr is not None and len(line.stderr) == len(line.points):
        parts.append(_band(line, x, y))
    if line.style == "points":
        if len(points) > 1:
            parts.append(tag("path", d=path(place), class_="ln thin"))
        parts += [
            marker(px, py, index, "dot", _point_title(line, point, chart)) for (px, py), point in zip(place, points)
        ]
    else:
        if smooth and len(points) >= SMOOTH_FROM:
            parts.append(tag("path", d=path(_placed(thin(points), x, y)), class_="ln raw"))
            points = smoothed(points)
        dash = _dash(index, line, solid)
        parts.append(tag("path", d=path(_placed(thin(points), x, y)), class_="ln", stroke_dasharray=dash))
        if len(points) == 1:
            parts.append(marker(*place[0], index))
        every = max(1, len(points) // HOVER_POINTS)
        hover = points[::every] if (len(points) - 1) % every == 0 else [*points[::every], points[-1]]
        parts += [
            tag("circle", tag("title", _point_title(line, p, chart)), cx=x(p[0]), cy=y(p[1]), r=6, class_="hover")
            for p in hover
        ]
    return tag("g", *parts, class_=f"s{index % SERIES_COLOURS + 1}")


def _placed(points: list[tuple[float, float]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(a), y(b)) for a, b in points]


def _band(line: Line, x: Scale, y: Scale) -> Markup:
    """±1 standard error around a curve."""
    upper, lower = [], []
    for (at, value), spread in zip(line.points, line.stderr or []):
        if value is not None and spread is not None and known(value) and known(spread):
            upper.append((x(at), y(value + spread)))
            lower.append((x(at), y(value - spread)))
    return tag("path", d=path(upper + lower[::-1]) + "Z", class_="band") if upper else Markup("")


def _marks(chart: LineChart, x: Scale, y: Scale, left: float, width: float, top: float, bottom: float) -> Markup:
    parts = []
    for i, mark in enumerate(chart.x_marks):
        at = x(mark.value)
        before = at > (left + width) / 2  # the label stands where there is room
        parts.append(rule(at, top - 2, at, bottom, "mark"))
        parts.append(
            text(at + (-5 if before else 5), top + 9 + 14 * i, mark.label, "marked", "end" if before else None)
        )
    for mark in chart.y_marks:
        at = y(mark.value)
        parts.append(rule(left, at, width - 14, at, "mark"))
        parts.append(text(width - 16, at - 5, f"{mark.label}: {with_unit(mark.value, chart.unit)}", "marked", "end"))
    return join(parts)


def _dash(index: int, line: Line, solid: bool) -> str | None:
    return "5 4" if line.style == "dashed" else None if solid else DASHES[index % len(DASHES)]


def _line_key(index: int, line: Line, solid: bool) -> Markup:
    if line.style == "points":
        return tag("g", marker(11, -4, index), class_=f"s{index % SERIES_COLOURS + 1}")
    stroke = tag("line", x1=0, y1=-4, x2=22, y2=-4, class_="ln", stroke_dasharray=_dash(index, line, solid))
    return tag("g", stroke, class_=f"s{index % SERIES_COLOURS + 1}")


def _point_title(line: Line, point: tuple[float, float], chart: LineChart) -> str:
    return f"{line.name}, {chart.x_label} {number(point[0])}: {with_unit(point[1], chart.unit)}"


def _describe_lines(chart: LineChart, drawn: list[tuple[Line, list[tuple[float, float]]]]) -> str:
    words = [f"Line chart: {chart.title}."]
    for line, points in drawn:
        first, last = points[0], points[-1]
        words.append(
            f"{line.name}: {with_unit(first[1], chart.unit)} at {chart.x_label} {number(first[0])}, "
            f"{with_unit(last[1], chart.unit)} at {chart.x_label} {number(last[0])}."
        )
    words += [f"Marked: {m.label} at {number(m.value)}." for m in [*chart.x_marks, *chart.y_marks]]
    return " ".join(words)
