"""Tables as HTML: plain ones, and the heat table of models × tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luopan.report.data import Cell, HeatCell, HeatColumn, HeatTable, Table
from luopan.report.markup import Markup, tag
from luopan.report.numbers import MISSING, error, known, number

FEW_COLUMNS = 4  # a table of so few is not stretched over the page
ROWS_SHOWN = 60  # a longer table is folded after these, and says so


def cell_text(value: Cell, unit: str = "") -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and unit != "%":
        return f"{value:,}".replace("-", "\u2212")
    if isinstance(value, int | float):
        return number(float(value), unit)
    return value


def table(data: Table) -> Markup:
    """The table with its caption; wide tables scroll within themselves."""
    units = data.units or [""] * len(data.columns)
    numeric = [
        any(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in data.rows)
        for i in range(len(data.columns))
    ]
    head = tag(
        "tr",
        *(tag("th", name, scope="col", class_="num" if numeric[i] else None) for i, name in enumerate(data.columns)),
    )
    body = [_row(row, units, numeric) for row in data.rows[:ROWS_SHOWN]]
    foot = tag("tfoot", _row(data.total, units, numeric)) if data.total else None
    shown = tag(
        "table",
        tag("thead", head),
        tag("tbody", *body),
        foot,
        class_="narrow" if len(data.columns) <= FEW_COLUMNS else None,
    )
    more = None
    if len(data.rows) > ROWS_SHOWN:
        rest = [_row(row, units, numeric) for row in data.rows[ROWS_SHOWN:]]
        more = tag(
            "details",
            tag("summary", f"{len(rest):,} more rows"),
            tag("div", tag("table", tag("thead", head), tag("tbody", *rest)), class_="scroll"),
        )
    if not data.rows:
        shown = tag("p", "no rows", class_="muted")
    return tag("figure", _caption(data.title, data.caption), tag("div", shown, class_="scroll"), more, class_="wide")


def _row(row: Sequence[Cell], units: list[str], numeric: list[bool]) -> Markup:
    cells = []
    for i, value in enumerate(row):
        text = cell_text(value, units[i])
        if i == 0 and not numeric[0]:
            cells.append(tag("th", text, scope="row"))
        else:
            cells.append(tag("td", text, class_="num" if numeric[i] else None))
    return tag("tr", *cells)


def _caption(title: str, caption: str) -> Markup | None:
    if not title and not caption:
        return None
    return tag("figcaption", tag("strong", title) if title else None, tag("span", caption) if caption else None)


# ---------------------------------------------------------------- heat


def heat_table(data: HeatTable) -> Markup:
    """Every cell: value, standard error, a tint by its place between the column's worst (or chance) and best, and a
    star on the best of the column, so that nothing hangs on the colour."""
    corner = tag("th", data.row_name, scope="col")
    head = tag("tr", corner, *(tag("th", column.name, scope="col", class_="num") for column in data.columns))
    facts = []
    if any(known(c.chance) for c in data.columns):
        facts.append(_facts("chance level", [number(c.chance, c.unit) for c in data.columns]))
    if any(c.n is not None for c in data.columns):
        facts.append(_facts("cases (n)", [f"{c.n:,}" if c.n is not None else MISSING for c in data.columns]))
    if any(c.higher_is_better is False for c in data.columns):
        words = {True: "higher", False: "lower", None: MISSING}
        facts.append(_facts("better is", [words[c.higher_is_better] for c in data.columns]))
    best = [_best([row[i] for row in data.cells], column) for i, column in enumerate(data.columns)]
    body = []
    for name, row in zip(data.rows, data.cells):
        cells = [_heat_cell(cell, i, data, best[i]) for i, cell in enumerate(row)]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    if not data.rows or not data.columns:
        return tag("figure", _caption(data.title, data.caption), tag("p", "nothing was measured", class_="muted"))
    caption = " ".join(part for part in (data.caption, "★ best of its column; ± is one standard error.") if part)
    shown = tag(
        "table", tag("thead", head), tag("tbody", *body), tag("tfoot", *facts) if facts else None, class_="heat"
    )
    return tag("figure", _caption(data.title, caption), tag("div", shown, class_="scroll"), class_="wide")


def _facts(name: str, values: list[str]) -> Markup:
    return tag("tr", tag("th", name, scope="row"), *(tag("td", value, class_="num") for value in values))


def _best(cells: list[HeatCell], column: HeatColumn) -> float | None:
    values = [cell.value for cell in cells if cell.value is not None and known(cell.value)]
    if len(values) < 2 or column.higher_is_better is None or max(values) == min(values):
        return None
    return max(values) if column.higher_is_better else min(values)


def _heat_cell(cell: HeatCell, index: int, data: HeatTable, best: float | None) -> Markup:
    column = data.columns[index]
    if cell.value is None or not known(cell.value):
        return tag("td", MISSING, class_="num")
    value = number(cell.value, column.unit, cell.stderr)
    star = (
        tag("span", "★", class_="star", title="best of this column")
        if best is not None and cell.value == best
        else None
    )
    spread = error(cell.stderr, column.unit)
    inner = [star, tag("b", value), tag("small", spread) if spread else None]
    share = _heat(cell.value, [row[index].value for row in data.cells], column)
    return tag("td", *inner, class_="num hot", style=f"--heat:{share:.2f}")


def _heat(value: float, values: list[float | None], column: HeatColumn) -> float:
    """0 (worst, or no better than chance) … 1 (best). Fractions are placed between chance and 100%, not stretched."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    low, high = min(finite), max(finite)
    if column.higher_is_better is None:
        return 0.0
    if column.unit == "%" and column.higher_is_better:
        low, high = column.chance if known(column.chance) and column.chance is not None else 0.0, max(1.0, high)
    elif known(column.chance) and column.chance is not None:
        low, high = min(low, column.chance), max(high, column.chance)
    if high <= low:
        return 0.5
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return share if column.higher_is_better else 1.0 - share
