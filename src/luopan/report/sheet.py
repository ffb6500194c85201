"""A page of its own for one comparison: a title, some words, pictures and tables, as one self-contained HTML file.

The same style sheet and the same promises as a run's report (`page.py`): no scripts, nothing loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from luopan.report.data import Picture, Table
from luopan.report.markup import tag
from luopan.report.shell import html_page
from luopan.report.stage_section import picture
from luopan.report.tables import table


def sheet(title: str, lead: str, pictures: Sequence[Picture] = (), tables: Sequence[Table] = ()) -> str:
    """The page. Pure: the same parts give the same page."""
    charts = [picture(each) for each in pictures]
    main = tag(
        "main",
        tag("header", tag("h1", title), tag("p", lead, class_="lead"), id="top"),
        tag("section", tag("div", *charts, class_="grid") if charts else None, *(table(each) for each in tables)),
        tag("footer", "Written by Luopan. This page is one file: no scripts, nothing loaded from elsewhere."),
    )
    return html_page(f"{title} · Luopan", tag("body", main))
