"""A page of its own for one comparison: a title, some words, pictures and tables, as one self-contained HTML file.

The same style sheet and the same promises as a run's report (`page.py`): no scripts, nothing loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from luopan.report.data import Picture, Table
from luopan.report.markup import Markup, tag
from luopan.report.page import FAVICON, POLICY
from luopan.report.stage_section import picture
from luopan.report.tables import table


def sheet(title: str, lead: str, pictures: Sequence[Picture] = (), tables: Sequence[Table] = ()) -> str:
    """The page. Pure: the same parts give the same page."""
    charts = [picture(each) for each in pictures]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · Luopan"),
        tag("link", rel="icon", href=FAVICON),
        tag("style", Markup(files("luopan.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    main = tag(
        "main",
        tag("header", tag("h1", title), tag("p", lead, class_="lead"), id="top"),
        tag("section", tag("div", *charts, class_="grid") if charts else None, *(table(each) for each in tables)),
        tag("footer", "Written by Luopan. This page is one file: no scripts, nothing loaded from elsewhere."),
    )
    return "<!doctype html>\n" + tag("html", head, "\n", tag("body", main), lang="en") + "\n"
