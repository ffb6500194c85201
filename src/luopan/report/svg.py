"""What all the charts share: the frame, text that fits, legends, hover titles.

Charts carry classes, not colours: the page's style sheet colours them for light, dark and print. Sizes are in picture
units, about one pixel. Text is measured by estimate (no fonts are loaded), so widths are generous.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from luopan.report.markup import Markup, join, tag

FONT = 12.0
WIDTH = 500.0  # about the pixels a picture gets on a wide screen, so that its text is as large as the page's
SERIES_COLOURS = 6


def text_width(text: str, font: float = FONT) -> float:
    """Estimated width; East Asian wide characters count one em, capitals and digits a little over half."""
    ems = 0.0
    for char in text:
        if unicodedata.east_asian_width(char) in "WF":
            ems += 1.0
        elif char in "iljtfr.,:;'|!()[] ":
            ems += 0.33
        elif char.isupper() or char in "mw%@—":
            ems += 0.74
        else:
            ems += 0.6
    return ems * font


def fit(text: str, width: float, font: float = FONT) -> str:
    """`text`, cut with an ellipsis where it would be wider than `width`."""
    if len(text) * 0.33 * font <= width and text_width(text, font) <= width:
        return text
    kept = text[: int(width / (0.33 * font)) + 1]  # no character is narrower
    while kept and text_width(kept + "…", font) > width:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def text(x: float, y: float, words: object, class_: str = "", anchor: str | None = None) -> Markup:
    return tag("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, *children: object, rx: float = 0) -> Markup:
    return tag("rect", *children, x=x, y=y, width=max(width, 0.0), height=height, class_=class_, rx=rx or None)


def labelled(words: str, width: float, x: float, y: float, class_: str = "", anchor: str | None = None) -> Markup:
    """Text cut to `width`, whole in a hover title where it was cut."""
    short = fit(words, width)
    return text(x, y, join([short, tag("title", words)]) if short != words else short, class_, anchor)


def drawing(width: float, height: float, label: str, *parts: object, class_: str = "plot") -> Markup:
    """The <svg>: one image with `label` as its text alternative."""
    return tag(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        aria_label=label,
        class_=class_,
    )


def empty(title: str, width: float = WIDTH, height: float = 110) -> Markup:
    """The picture of nothing."""
    frame = rect(1, 1, width - 2, height - 2, "hollow", rx=6)
    return drawing(
        width, height, f"{title}: no data", frame, text(width / 2, height / 2 + 4, "no data", "muted", "middle")
    )


MARKERS = ("circle", "square", "diamond", "triangle")


def marker(x: float, y: float, index: int, class_: str = "dot", title: str | None = None, r: float = 3.6) -> Markup:
    """A point: another shape for each series, so that colour is not all that tells them apart."""
    note = None if title is None else tag("title", title)
    shape = MARKERS[index % len(MARKERS)]
    if shape == "circle":
        return tag("circle", note, cx=x, cy=y, r=r, class_=class_)
    if shape == "square":
        return tag("rect", note, x=x - r, y=y - r, width=2 * r, height=2 * r, class_=class_)
    corners = (
        [(x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y)]
        if shape == "diamond"
        else [(x, y - 1.2 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)]
    )
    return tag("polygon", note, points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_=class_)


def legend(keys: Sequence[tuple[str, Markup]], x: float, y: float, width: float) -> tuple[Markup, float]:
    """Keys (name, swatch drawn around 0..20 × -8..0) in rows of `width`; returns the markup and its height."""
    parts: list[Markup] = []
    at, row = 0.0, 0
    for name, swatch in keys:
        name = fit(name, width - 28)
        step = 26 + text_width(name) + 18
        if at and at + step - 18 > width:
            at, row = 0.0, row + 1
        parts.append(
            tag("g", swatch, text(26, 0, name, "key"), transform=f"translate({x + at:.1f} {y + 18 * row + 11:.1f})")
        )
        at += step
    return join(parts), (18.0 * (row + 1) + 4 if keys else 0.0)


def path(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
