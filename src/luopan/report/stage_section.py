"""The section of one stage: what it did, its figures, curves, pictures, tables, samples and what it set aside."""

from __future__ import annotations

from luopan.report.charts import draw, line_notes
from luopan.report.curves import stage_curves
from luopan.report.data import LineChart, Picture, StageReport
from luopan.report.figures import figure_table
from luopan.report.markup import Markup, tag
from luopan.report.numbers import duration, flops, quantity, size
from luopan.report.samples import samples
from luopan.report.sections import notes
from luopan.report.tables import heat_table, table

REST_OPEN = 2  # this many further curves are shown; more stand behind a fold


def stage_section(index: int, stage: StageReport) -> Markup:
    main, small, rest = stage_curves(stage)
    wide = [p for p in stage.pictures if p.type == "heat"]
    charts = [picture(p) for p in [*stage.pictures, *main] if p.type != "heat"]
    if len(rest) <= REST_OPEN:
        small, rest = [*small, *rest], []
    parts: list[object] = [
        _title(index, stage),
        tag("p", stage.summary, class_="lead") if stage.summary else None,
        _facts(stage),
        notes(stage.notes),
        figure_table(stage.figures),
        *(picture(p) for p in wide),
        _grid(charts, "grid"),
        _grid([picture(c, small=True) for c in small], "row"),
        *(table(t) for t in stage.tables),
        samples(stage.samples),
    ]
    if rest:
        summary = tag("summary", f"{len(rest)} more curves")
        parts.append(tag("details", summary, _grid([picture(c, small=True) for c in rest], "row")))
    return tag("section", *parts, id=f"stage-{index}", class_="stage")


def _title(index: int, stage: StageReport) -> Markup:
    chips = [tag("span", stage.kind, class_="chip")] if stage.kind != stage.name else []
    if stage.status != "done":
        chips.append(
            tag("span", stage.status, class_=f"chip {'bad' if stage.status in ('failed', 'partial') else ''}".strip())
        )
    return tag("h2", tag("span", f"{index + 1}", class_="ordinal"), stage.name, *chips)


def _facts(stage: StageReport) -> Markup | None:
    rate = stage.tokens / stage.seconds if stage.tokens and stage.seconds else None
    facts = [
        ("time", duration(stage.seconds) if stage.seconds is not None else ""),
        ("tokens", quantity(stage.tokens) if stage.tokens is not None else ""),
        ("tokens/s", quantity(rate) if rate is not None else ""),
        ("compute", flops(stage.flops) if stage.flops is not None else ""),
        ("parameters", quantity(stage.parameters) if stage.parameters is not None else ""),
        ("peak memory", size(stage.peak_memory_bytes) if stage.peak_memory_bytes is not None else ""),
        (
            "made from",
            ", ".join(f"{source} ({role})" if source != role else source for role, source in stage.inputs.items()),
        ),
        ("identity", stage.identity[:16]),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value]
    return tag("dl", *shown, class_="stage-facts") if shown else None


def _grid(charts: list[Markup], class_: str) -> Markup | None:
    return tag("div", *charts, class_=class_) if charts else None


def picture(item: Picture, small: bool = False) -> Markup:
    """Any picture as a <figure> with its title and caption."""
    if item.type == "heat":
        return heat_table(item)
    told = [item.caption, *(line_notes(item) if isinstance(item, LineChart) else [])]
    caption = " ".join(words for words in told if words)
    return tag(
        "figure",
        tag("figcaption", tag("strong", item.title), tag("span", caption) if caption else None),
        tag("div", draw(item, small), class_="scroll"),
        class_="card",
    )
