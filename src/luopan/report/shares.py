"""Pictures of parts and of what was lost, and the small before-and-after picture: pure functions to SVG."""

from __future__ import annotations

from luopan.report.data import Figure, Funnel, Mixture
from luopan.report.markup import Markup, join, tag
from luopan.report.numbers import MINUS, amount, known, number, quantity, size, verdict, with_unit
from luopan.report.scales import Scale
from luopan.report.svg import WIDTH, drawing, empty, labelled, marker, rect, text, text_width
from luopan.report.svg import line as rule

LARGEST = 9  # parts drawn on their own; the rest is summed


def mixture_chart(chart: Mixture, width: float = WIDTH) -> Markup:
    """A stacked bar per row, and below it a numbered key with every part's amount and share in each row."""
    rows = {
        name: kept
        for name, parts in chart.rows.items()
        if (kept := {p: v for p, v in parts.items() if known(v) and v > 0})
    }
    if not rows:
        return empty(chart.title, width)
    parts = _largest(rows)
    totals = {name: sum(amounts.values()) for name, amounts in rows.items()}
    left = min(max(text_width(name) for name in rows) + 16, width * 0.3) if any(rows) else 8.0
    markup: list[Markup] = []
    top = 8.0
    for name, amounts in rows.items():
        if name:
            markup.append(labelled(name, left - 12, left - 8, top + 19, "name", "end"))
        markup.append(_stack(parts, amounts, totals[name], left, width - 8, top, chart.unit, name))
        top += 38
    key, height = _share_key(chart, parts, rows, totals, top + 4, width)
    described = "; ".join(
        (f"{name}: " if name else "") + ", ".join(f"{p} {number(_of(p, a, parts) / totals[name], '%')}" for p in parts)
        for name, a in rows.items()
    )
    return drawing(width, top + 4 + height, f"Shares: {chart.title}. {described}.", *markup, key)


def _largest(rows: dict[str, dict[str, float]]) -> list[str]:
    """The parts by their largest share in any row; beyond `LARGEST` they are summed under "other"."""
    shares: dict[str, float] = {}
    for amounts in rows.values():
        total = sum(amounts.values())
        for part, value in amounts.items():
            shares[part] = max(shares.get(part, 0.0), value / total)
    ordered = sorted(shares, key=lambda part: -shares[part])
    return ordered if len(ordered) <= LARGEST else [*ordered[: LARGEST - 1], f"{len(ordered) - LARGEST + 1} others"]


def _of(part: str, amounts: dict[str, float], parts: list[str]) -> float:
    if part in amounts:
        return amounts[part]
    if part.endswith(" others") and part == parts[-1]:
        return sum(v for name, v in amounts.items() if name not in parts)
    return 0.0


def _stack(
    parts: list[str],
    amounts: dict[str, float],
    total: float,
    left: float,
    right: float,
    top: float,
    unit: str,
    row: str,
) -> Markup:
    out = []
    at = left
    for i, part in enumerate(parts):
        value = _of(part, amounts, parts)
        width = (right - left) * value / total
        if width <= 0:
            continue
        share = number(value / total, "%")
        title = tag("title", f"{row + ', ' if row else ''}{part}: {share}, {amount(value, unit)}")
        pieces = [rect(at, top, width, 28, f"part p{i + 1}", title)]
        label = f"{i + 1}"
        if width > 70 and text_width(f"{label}  {share}") < width - 8:
            label = f"{label}  {share}"
        if width > 16:
            pieces.append(text(at + width / 2, top + 18.5, label, f"on-part o{i + 1}", "middle"))
        out.append(tag("g", *pieces))
        at += width
    return join(out)


def _share_key(
    chart: Mixture,
    parts: list[str],
    rows: dict[str, dict[str, float]],
    totals: dict[str, float],
    top: float,
    width: float,
) -> tuple[Markup, float]:
    names = list(rows)
    column = max(40.0, min(150.0, (width - 190) / max(len(names), 1)))
    out = []
    if len(names) > 1:
        for r, name in enumerate(names):
            right = width - 10 - column * (len(names) - 1 - r)
            out.append(labelled(name, column - 12, right, top + 10, "tick", "end"))
        top += 16
        height = 16.0
    else:
        height = 0.0
    for i, part in enumerate(parts):
        y = top + 20 * i
        out.append(rect(8, y, 22, 14, f"part p{i + 1}", rx=2))
        out.append(text(19, y + 11, f"{i + 1}", f"on-part o{i + 1}", "middle"))
        out.append(labelled(part, width - 50 - column * len(names), 38, y + 11.5, "key"))
        for r, name in enumerate(names):
            value = _of(part, rows[name], parts)
            right = width - 10 - column * (len(names) - 1 - r)
            share = number(value / totals[name], "%")
            words = f"{share} · {amount(value, chart.unit)}" if value else "–"
            if len(names) > 1 and text_width(words) > column - 8:  # the hover title of the bar has the amount
                words = share if value else "–"
            out.append(text(right, y + 11.5, words, "value", "end"))
    return join(out), height + 20 * len(parts) + 4


def funnel_chart(chart: Funnel, width: float = WIDTH) -> Markup:
    """What each step kept of what came in: a bar per step, with what it took away drawn hatched at its end."""
    if not chart.steps or chart.steps[0].documents <= 0:
        return empty(chart.title, width)
    first = chart.steps[0].documents
    left = min(max(text_width(s.name) for s in chart.steps) + 18, width * 0.34)
    right = 150.0
    x = Scale(0, first, left, width - right)
    rows = []
    for i, step in enumerate(chart.steps):
        y = 10 + 34 * i
        before = chart.steps[i - 1].documents if i else step.documents
        lost = before - step.documents
        share = lost / before if before else 0.0
        kept = f"{step.documents:,}" + (f" · {size(step.bytes)}" if step.bytes is not None else "")
        away = f"{MINUS}{lost:,} ({number(share, '%')})" if lost > 0 else "came in" if i == 0 else "nothing removed"
        title = tag("title", f"{step.name}: {kept}; {away}")
        rows.append(labelled(step.name, left - 14, left - 9, y + 17, "name", "end"))
        rows.append(rect(left, y, x(step.documents) - left, 24, "bar", title, rx=2))
        if lost > 0:
            rows.append(rect(x(step.documents), y, max(x(before) - x(step.documents), 1), 24, "lost", title))
        rows.append(text(x(max(before, step.documents)) + 8, y + 10.5, kept, "value"))
        rows.append(text(x(max(before, step.documents)) + 8, y + 23, away, "tick"))
    words = ", ".join(f"{s.name} {s.documents:,}" for s in chart.steps)
    inner = tag("g", *rows, class_="s1")
    return drawing(
        width, 14 + 34 * len(chart.steps), f"Funnel: {chart.title}. Documents left after each step: {words}.", inner
    )


# ---------------------------------------------------------------- before and after


def before_after(figure: Figure, width: float = 190, height: float = 30) -> Markup:
    """A small picture of one figure: hollow = before, solid = after, a tick = the baseline, bars = standard errors."""
    values = [(figure.before, figure.stderr_before), (figure.after, figure.stderr_after), (figure.baseline, None)]
    points = [(v, e if known(e) else 0.0) for v, e in values if known(v)]
    if not points or not known(figure.after):
        return Markup("")
    x = _small_scale(figure, points, width)
    middle = height / 2
    judged = verdict(figure).word
    tone = {"better": "good", "worse": "bad"}.get(judged, "even")
    parts = [rule(x.start, middle, x.end, middle, "track")]
    if known(figure.baseline):
        note = tag("title", f"{figure.baseline_name}: {with_unit(figure.baseline, figure.unit)}")
        parts.append(rect(x(figure.baseline or 0.0) - 1.5, middle - 9, 3, 18, "chance", note))
    if known(figure.before):
        here, there = x(figure.before or 0.0), x(figure.after or 0.0)
        if abs(there - here) > 12:
            parts.append(rule(here, middle, there, middle, f"move {tone}"))
    for value, spread, kind in (
        (figure.before, figure.stderr_before, "was"),
        (figure.after, figure.stderr_after, "is"),
    ):
        if value is None or not known(value):
            continue
        if spread is not None and known(spread) and spread > 0:
            lo, hi = x(max(value - spread, x.low)), x(min(value + spread, x.high))
            parts.append(rect(lo, middle - 1.5, max(hi - lo, 1), 3, f"spread {tone}"))
        title = f"{'before' if kind == 'was' else 'after'}: {with_unit(value, figure.unit, spread)}"
        parts.append(marker(x(value), middle, 0, f"{kind} {tone}", title, r=5))
    told = f"before {number(figure.before, figure.unit)}, after {number(figure.after, figure.unit)}"
    words = f"{figure.name}: {told}: {judged}"
    return drawing(width, height, words, *parts, class_="mini")


def _small_scale(figure: Figure, points: list[tuple[float | None, float | None]], width: float) -> Scale:
    """Fractions on 0..100 %; anything else on its own range, with room on both sides."""
    lows = [(v or 0.0) - (e or 0.0) for v, e in points]
    highs = [(v or 0.0) + (e or 0.0) for v, e in points]
    low, high = min(lows), max(highs)
    if figure.unit == "%" and low >= 0 and high <= 1.0001:
        low, high = 0.0, 1.0
    else:
        room = (high - low) * 0.15 or abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
    return Scale(low, high, 9, width - 9)


def bar_of(value: float, largest: float, label: str, width: float = 110) -> Markup:
    """One small horizontal bar for a table cell."""
    share = value / largest if largest > 0 and known(value) else 0.0
    inner = [
        rect(0, 3, width, 8, "hollow", rx=2),
        tag("g", rect(0, 3, max(width * share, 1), 8, "bar", rx=2), class_="s1"),
    ]
    return drawing(width, 14, label or quantity(value), *inner, class_="mini")
