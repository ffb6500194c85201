"""Figures before and after as tables: "At a glance" for the run, and each stage's own with how they were measured."""

from __future__ import annotations

from collections.abc import Sequence

from luopan.report.data import Figure, RunReport
from luopan.report.markup import Markup, tag
from luopan.report.numbers import MISSING, Verdict, change, error, known, number, verdict
from luopan.report.shares import before_after

GLYPHS = {"better": "✓", "worse": "✗", "no clear change": "≈", "changed": "→", "measured": ""}
TONES = {"better": "good", "worse": "bad"}


def glance(report: RunReport) -> Markup | None:
    """One block of rows per stage with headline figures, and a sentence that counts the verdicts."""
    groups = [(i, stage, [f for f in stage.figures if f.headline]) for i, stage in enumerate(report.stages)]
    groups = [group for group in groups if group[2]]
    if not groups:
        return None
    bodies = []
    for i, stage, figures in groups:
        link = tag("a", stage.name, href=f"#stage-{i}")
        first = tag(
            "th",
            link,
            tag("small", stage.kind) if stage.kind != stage.name else None,
            scope="rowgroup",
            rowspan=len(figures),
        )
        bodies.append(tag("tbody", *(tag("tr", first if k == 0 else None, *_cells(f)) for k, f in enumerate(figures))))
    head = _figure_head("stage")
    shown = tag("table", head, *bodies, class_="figures")
    counted = _count([verdict(f).word for _, _, figures in groups for f in figures])
    return tag(
        "section",
        tag("h2", "At a glance"),
        tag("p", counted, class_="lead"),
        tag("div", shown, class_="scroll card"),
        figure_key(),
        id="glance",
    )


def _figure_head(*leading: str) -> Markup:
    names = [tag("th", name, scope="col") for name in (*leading, "figure")]
    names += [tag("th", name, scope="col", class_="num") for name in ("before", "after")]
    names += [
        tag("th", "picture", scope="col"),
        tag("th", "change", scope="col"),
        tag("th", "n", scope="col", class_="num"),
    ]
    return tag("thead", tag("tr", *names))


def figure_key() -> Markup:
    words = (
        "○ before, ● after, ▮ baseline; shares run from 0 to 100%, other figures have a range of their own. "
        "± is one standard error. "
        "✓ better and ✗ worse: the change exceeds two standard errors of the difference, where they were given; "
        "≈ no clear change: it does not."
    )
    return tag("p", words, class_="muted small")


def _count(words: list[str]) -> str:
    counts = {word: words.count(word) for word in ("better", "no clear change", "worse")}
    told = [
        f"{counts['better']} clearly better" if counts["better"] else "",
        f"{counts['no clear change']} without a clear change" if counts["no clear change"] else "",
        f"{counts['worse']} worse" if counts["worse"] else "",
    ]
    compared = sum(counts.values())
    if not compared:
        return f"{len(words)} figures measured; none has something to be compared with."
    return f"Of {compared} headline figures with something to compare: {', '.join(t for t in told if t)}."


def figure_table(figures: Sequence[Figure]) -> Markup | None:
    """A stage's own figures, headline and others, with how each was measured."""
    if not figures:
        return None
    rows = [tag("tr", *_cells(figure, with_help=True)) for figure in figures]
    return tag("div", tag("table", _figure_head(), tag("tbody", *rows), class_="figures"), class_="scroll card")


def _cells(figure: Figure, with_help: bool = False) -> list[Markup]:
    judged = verdict(figure)
    unit = "" if figure.unit in ("", "%") else figure.unit
    direction = {True: "higher is better", False: "lower is better", None: ""}[figure.higher_is_better]
    told = ", ".join(part for part in (unit, direction) if part)
    name = tag(
        "td",
        figure.name,
        tag("small", told) if told else None,
        tag("small", figure.help) if with_help and figure.help else None,
    )
    return [
        name,
        _measured("before", figure.before, figure.stderr_before, figure.unit),
        _measured("after", figure.after, figure.stderr_after, figure.unit),
        tag("td", before_after(figure), class_="pic"),
        tag("td", *_change(figure, judged), class_=f"change {TONES.get(judged.word, 'even')}"),
        tag("td", f"{figure.n:,}" if figure.n is not None else MISSING, class_="num", data_label="n"),
    ]


def _measured(label: str, value: float | None, stderr: float | None, unit: str) -> Markup:
    spread = error(stderr, unit) if known(value) else ""
    return tag(
        "td", number(value, unit, stderr), tag("small", spread) if spread else None, class_="num", data_label=label
    )


def _change(figure: Figure, judged: Verdict) -> list[object]:
    if judged.delta is None:
        return [tag("span", "measured", class_="muted")]
    short = figure.unit if figure.unit == "%" else ""
    amount = change(judged.delta, short, judged.noise)
    parts: list[object] = [tag("b", f"{GLYPHS[judged.word]} {amount}"), tag("small", judged.word)]
    if judged.against != "before":
        parts[-1] = tag("small", f"{judged.word}, against {judged.against}")
    elif figure.baseline is not None and known(figure.baseline):
        parts.append(tag("small", f"{figure.baseline_name}: {number(figure.baseline, figure.unit)}"))
    return parts
