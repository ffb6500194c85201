"""The sections of the page that belong to the run as a whole: header, at a glance, cost, set aside, lineage, recipe."""

from __future__ import annotations

from collections.abc import Sequence

from luopan.report.data import Note, RunReport, SetAside, StageReport, Table
from luopan.report.lineage import lineage_graph
from luopan.report.markup import Markup, join, tag
from luopan.report.numbers import (
    duration,
    flops,
    known,
    number,
    quantity,
    size,
)
from luopan.report.shares import bar_of
from luopan.report.tables import table

COMPASS = Markup(
    '<svg class="compass" viewBox="0 0 48 48" width="44" height="44" aria-hidden="true">'
    '<circle cx="24" cy="24" r="22" class="ring"/><circle cx="24" cy="24" r="15.5" class="ring thin"/>'
    '<path d="M24 2v5M24 41v5M2 24h5M41 24h5" class="ring"/>'
    '<path d="M8.4 8.4l3.6 3.6M36 36l3.6 3.6M8.4 39.6l3.6-3.6M36 12l3.6-3.6" class="ring"/>'
    '<path d="M24 10l4.2 14h-8.4z" class="north"/><path d="M24 38l4.2-14h-8.4z" class="south"/></svg>'
)
LEVELS = {"info": "Note", "good": "Good", "warning": "Warning", "bad": "Problem"}
EXAMPLE_LENGTH = 240


def total(values: Sequence[float | int | None]) -> float | None:
    """Sum of what is known; None where nothing is."""
    given = [float(v) for v in values if v is not None and known(v)]
    return sum(given) if given else None


def largest(values: Sequence[float | int | None]) -> float | None:
    given = [float(v) for v in values if v is not None and known(v)]
    return max(given) if given else None


# ---------------------------------------------------------------- header


def header(report: RunReport) -> Markup:
    seconds = report.seconds if report.seconds is not None else total([s.seconds for s in report.stages])
    operations = report.flops if report.flops is not None else total([s.flops for s in report.stages])
    memory = (
        report.peak_memory_bytes
        if report.peak_memory_bytes is not None
        else largest([s.peak_memory_bytes for s in report.stages])
    )
    tiles = [
        ("Wall time", duration(seconds) if seconds is not None else ""),
        ("Parameters", _exact(largest([s.parameters for s in report.stages]))),
        ("Tokens processed", _exact(total([s.tokens for s in report.stages]))),
        ("Training FLOPs", flops(operations, "") if operations is not None else ""),
        ("Peak memory", size(memory) if memory is not None else ""),
        ("Seed", str(report.seed) if report.seed is not None else ""),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in tiles if value]
    where = " · ".join(report.hardware.values())
    when = report.created.strftime("%Y-%m-%d %H:%M %Z").strip() if report.created else ""
    facts = [
        tag("span", when) if when else None,
        tag("span", where) if where else None,
        tag("span", ", ".join(f"{k} {v}" for k, v in list(report.versions.items())[:4])) if report.versions else None,
    ]
    return tag(
        "header",
        tag(
            "div",
            COMPASS,
            tag("div", tag("p", "Luopan training report", class_="kicker"), tag("h1", report.name)),
            class_="brand",
        ),
        tag("p", report.description, class_="lead") if report.description else None,
        tag("p", *facts, class_="facts"),
        tag("dl", *shown, class_="tiles") if shown else None,
        notes(report.notes),
        tag("p", "Talk to it: ", tag("code", report.chat_command), class_="command") if report.chat_command else None,
        id="top",
    )


def _exact(value: float | None) -> str:
    return "" if value is None else quantity(value)


def notes(items: Sequence[Note]) -> Markup | None:
    if not items:
        return None
    return join(
        tag("p", tag("strong", LEVELS[note.level] + ": "), note.text, class_=f"note {note.level}") for note in items
    )


def section(anchor: str, title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title), *children, id=anchor)


# ---------------------------------------------------------------- cost


def cost(report: RunReport) -> Markup | None:
    """Where time and compute went, per stage and in all."""
    stages = [s for s in report.stages if s.seconds is not None or s.flops is not None or s.tokens is not None]
    if not stages:
        return None
    longest = largest([s.seconds for s in stages]) or 0.0
    names = ("stage", "time", "", "tokens", "tokens/s", "training FLOPs", "FLOP/s", "peak memory")
    head = tag(
        "tr", *(tag("th", n, scope="col", class_="num" if i not in (0, 2) else None) for i, n in enumerate(names))
    )
    rows = [_cost_row(stage, longest) for stage in stages]
    summed = StageReport(
        kind="",
        name="all stages",
        seconds=total([s.seconds for s in stages]),
        flops=total([s.flops for s in stages]),
        peak_memory_bytes=_whole(largest([s.peak_memory_bytes for s in stages])),
        tokens=_whole(total([s.tokens for s in stages])),
    )
    shown = tag("table", tag("thead", head), tag("tbody", *rows), tag("tfoot", _cost_row(summed, 0.0)))
    words = (
        "FLOPs are computed from the model's shape and the tokens, not measured (a multiplication and an addition "
        "count as two); time is wall time of the whole stage, so FLOP/s include loading, sampling and evaluation."
    )
    return section(
        "cost", "Time and compute", tag("div", shown, class_="scroll card"), tag("p", words, class_="muted small")
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _cost_row(stage: StageReport, longest: float) -> Markup:
    seconds = stage.seconds or 0.0
    rate = stage.tokens / seconds if stage.tokens and seconds > 0 else None
    speed = stage.flops / seconds if stage.flops and seconds > 0 else None
    bar = (
        bar_of(seconds, longest, f"{stage.name}: {duration(stage.seconds)}", 120)
        if longest and stage.seconds is not None
        else ""
    )
    cells = [
        quantity(stage.tokens),
        quantity(rate),
        flops(stage.flops, ""),
        quantity(speed),
        size(stage.peak_memory_bytes),
    ]
    return tag(
        "tr",
        tag("th", stage.name, scope="row"),
        tag("td", duration(stage.seconds), class_="num"),
        tag("td", bar, class_="pic"),
        *(tag("td", cell, class_="num") for cell in cells),
    )


# ---------------------------------------------------------------- the rest


def set_aside(items: Sequence[SetAside], title: str = "Set aside") -> Markup | None:
    """Reasons and counts, with a few examples behind a fold."""
    if not items:
        return None
    rows = []
    for item in items:
        share = f"{number(item.count / item.of, '%')} of {item.of:,}" if item.of else ""
        examples = None
        if item.examples:
            listed = [
                tag("li", e if len(e) <= EXAMPLE_LENGTH else e[:EXAMPLE_LENGTH] + "…", dir="auto")
                for e in item.examples[:5]
            ]
            examples = tag(
                "details", tag("summary", f"{len(listed)} example{'s' if len(listed) > 1 else ''}"), tag("ul", *listed)
            )
        rows.append(
            tag(
                "tr",
                tag("th", item.stage, scope="row"),
                tag("td", item.reason, examples),
                tag(
                    "td",
                    f"{item.count:,} {item.unit.removesuffix('s') if item.count == 1 else item.unit}",
                    tag("small", share) if share else None,
                    class_="num",
                ),
            )
        )
    head = tag(
        "tr",
        tag("th", "stage", scope="col"),
        tag("th", "reason", scope="col"),
        tag("th", "how many", scope="col", class_="num"),
    )
    shown = tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll card")
    lead = tag("p", "What the run rejected, skipped or cut, and why.", class_="lead")
    return section("set-aside", title, lead, shown)


def limits(report: RunReport) -> Markup | None:
    if not report.limits:
        return None
    return section(
        "limits",
        "Limits",
        tag("div", tag("ul", *(tag("li", text) for text in report.limits)), class_="card limits"),
    )


def lineage(report: RunReport) -> Markup | None:
    if not report.stages:
        return None
    lead = (
        "What every stage was made from. The code in a box is the stage's identity: "
        "the same settings, inputs and code give the same identity."
    )
    graph = tag("div", lineage_graph(report.stages), class_="scroll card")
    return section("lineage", "Lineage", tag("p", lead, class_="lead"), graph)


def provenance(report: RunReport) -> Markup | None:
    """Versions, hardware and the recipe as it was resolved."""
    parts: list[object] = []
    for name, facts in (("Versions", report.versions), ("Hardware", report.hardware)):
        if facts:
            rows: list[list[bool | int | float | str | None]] = [[key, value] for key, value in facts.items()]
            parts.append(table(Table(title=name, columns=["what", "value"], rows=rows)))
    if not parts and not report.recipe:
        return None
    recipe = None
    if report.recipe:
        summary = tag("summary", "The recipe as it was resolved (YAML)")
        recipe = tag("details", summary, tag("pre", tag("code", report.recipe)), class_="card recipe")
    return section("provenance", "Versions and recipe", tag("div", *parts, class_="grid") if parts else None, recipe)
