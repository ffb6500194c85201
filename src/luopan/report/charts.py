"""The charts: pure functions from the data of `data.py` to SVG strings. One door to `lines`, `bars` and `shares`.

An empty chart says "no data" instead of failing. Every chart names its contents in `aria-label`, every point and bar
has its value as a hover title or in print, and series differ in dash, shape or lightness as well as in colour.
"""

from __future__ import annotations

import base64

from luopan.report.bars import bar_chart
from luopan.report.data import BarChart, Funnel, Image, LineChart, Mixture
from luopan.report.lineage import lineage_graph
from luopan.report.lines import line_chart, line_notes
from luopan.report.markup import Markup, tag
from luopan.report.shares import before_after, funnel_chart, mixture_chart

__all__ = [
    "bar_chart",
    "before_after",
    "draw",
    "funnel_chart",
    "line_chart",
    "line_notes",
    "lineage_graph",
    "mixture_chart",
]


def draw(item: LineChart | BarChart | Mixture | Funnel | Image, small: bool = False) -> Markup:
    """The picture as inline SVG; an `Image` as a data URI, in which scripts cannot run."""
    if isinstance(item, LineChart):
        return line_chart(item, 380, 190) if small else line_chart(item)
    if isinstance(item, BarChart):
        return bar_chart(item)
    if isinstance(item, Mixture):
        return mixture_chart(item)
    if isinstance(item, Funnel):
        return funnel_chart(item)
    data = base64.b64encode(item.data).decode("ascii")
    return tag("img", src=f"data:{item.media_type};base64,{data}", alt=item.alt)
