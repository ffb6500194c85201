"""A report's table on the terminal."""

from __future__ import annotations

from typing import Any

from luopan.report.data import Table
from luopan.report.numbers import number


def print_table(console: Any, shown: Table) -> None:
    """Columns of numbers to the right, shares as per cent; what is not known is left empty."""
    from rich.table import Table as RichTable

    units = shown.units or [""] * len(shown.columns)
    rows = [*shown.rows, *([shown.total] if shown.total is not None else [])]
    table = RichTable(box=None, padding=(0, 2), show_edge=False, title=shown.title or None, title_justify="left")
    for place, column in enumerate(shown.columns):
        numeric = any(isinstance(row[place], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell, unit) for cell, unit in zip(row, units, strict=True)))
    console.print(table)


def _text(cell: object, unit: str) -> str:
    if cell is None:
        return ""
    return number(cell, unit) if isinstance(cell, int | float) and not isinstance(cell, bool) else str(cell)
