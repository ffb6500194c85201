"""The report of a run as one HTML page: `render(report) -> str`.

The page is whole in itself: its style sheet is inlined, its pictures are inline SVG, and its content security policy
forbids scripts and every request to a network. What comes from data is escaped by `markup.tag`. Parts that are missing
are left out, table of contents included.
"""

from __future__ import annotations

from luopan.report import sections
from luopan.report.data import RunReport
from luopan.report.figures import glance
from luopan.report.markup import Markup, join, tag
from luopan.report.samples import samples
from luopan.report.shell import html_page
from luopan.report.stage_section import stage_section


def render(report: RunReport) -> str:
    """The page for one run. Pure: no files are written, no clock is read, the same report gives the same page."""
    parts = [part for part in _parts(report) if part[2] is not None]
    body = tag(
        "body",
        tag("a", "Skip to content", href="#top", class_="skip"),
        tag(
            "div",
            _contents(report, parts),
            tag("main", sections.header(report), *(part for _, _, part in parts), _footer()),
        ),
    )
    return html_page(f"{report.name} · Luopan report", body)


def _parts(report: RunReport) -> list[tuple[str, str, Markup | None]]:
    """(anchor, title, markup or None) in the order of the page."""
    spoken = samples(report.samples)
    lead = tag("p", "The same prompts, answered by the model of each stage.", class_="lead")
    aside = [*report.set_aside, *(item for stage in report.stages for item in stage.set_aside)]
    return [
        ("glance", "At a glance", glance(report)),
        (
            "samples",
            "Samples",
            None if spoken is None else sections.section("samples", "Samples, side by side", lead, spoken),
        ),
        ("limits", "Limits", sections.limits(report)),
        *((f"stage-{i}", stage.name, stage_section(i, stage)) for i, stage in enumerate(report.stages)),
        ("cost", "Time and compute", sections.cost(report)),
        ("set-aside", "Set aside", sections.set_aside(aside)),
        ("lineage", "Lineage", sections.lineage(report)),
        ("provenance", "Versions and recipe", sections.provenance(report)),
    ]


def _contents(report: RunReport, parts: list[tuple[str, str, Markup | None]]) -> Markup:
    items = []
    for anchor, title, _ in parts:
        stage = anchor.startswith("stage-")
        mark = (
            tag("span", anchor.removeprefix("stage-").isdigit() and str(int(anchor[6:]) + 1), class_="ordinal")
            if stage
            else None
        )
        items.append(tag("li", tag("a", mark, title, href=f"#{anchor}"), class_="of-stage" if stage else None))
    return tag("nav", tag("p", tag("a", report.name, href="#top")), tag("ol", *items), aria_label="Contents")


def _footer() -> Markup:
    words = "Written by Luopan. This page is one file: no scripts, nothing loaded from elsewhere."
    return join([tag("footer", words)])
