"""What `luopan rollouts` prints: a table of steps, a page of prompts, one prompt with its answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luopan.rl.browse import Log, Row, Summary


def print_steps(log: Log, summaries: Sequence[Summary], *, title: bool) -> None:
    """A line per generation; of many an even choice."""
    from rich.table import Table

    console = _console()
    names = list(dict.fromkeys(name for one in summaries for name in one.parts))
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        show_edge=False,
        pad_edge=False,
        title=log.stage if title else None,
        title_justify="left",
    )
    for column in ("step", "prompts", "answers", "reward", *names, "tokens", "stops", "dead", "replaced", "ungraded"):
        table.add_column(column, justify="right")
    for one in summaries:
        table.add_row(
            str(one.step), str(one.prompts), str(one.answers), _number(one.reward),
            *(_number(one.parts.get(name)) for name in names), f"{one.length:.1f}", f"{one.stop_rate:.0%}",
            str(one.dead_groups), str(one.replaced), _some(one.ungraded),
        )  # fmt: skip
    console.print(table)
    if len(summaries) < len(log.steps):
        console.print(f"{len(summaries)} of {len(log.steps)} steps; --step N shows any of them", style="dim")


def print_rows(rows: Sequence[Row], page: int, per_page: int, total: int) -> None:
    """A line per prompt, and how to see more."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    if not rows:
        console.print("nothing to show" if not total else f"there are {-(-total // per_page)} pages")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    for column in ("step", "prompt"):
        table.add_column(column, justify="right")
    table.add_column("task")
    for column in ("reward", "from", "to", "longest", "stops", "ungraded"):
        table.add_column(column, justify="right")
    table.add_column("question", no_wrap=True, overflow="ellipsis")
    for row in rows:
        rewards = row.rewards
        stops = sum(answer["finish_reason"] == "stop" for answer in row.answers)
        table.add_row(
            str(row.step), str(row.number), _plain(row.record["task"]),
            *(_number(f(rewards) if rewards else None) for f in (fmean, min, max)), str(max(row.lengths, default=0)),
            f"{stops}/{len(row.answers)}", _some(row.ungraded), Text(_line(row.record["question"], 60)),
        )  # fmt: skip
    console.print(table)
    pages = -(-total // per_page)
    more = f"; the next: --page {page + 1}" if page < pages else ""
    one = f"--step {rows[0].step} --prompt {rows[0].number} shows one"
    console.print(f"page {page} of {pages}, {total:,} prompt{'' if total == 1 else 's'}{more}; {one}", style="dim")


def print_prompt(row: Row) -> None:
    """A prompt and all its answers: what each earned, by which parts, and how that compares with the others."""
    from rich.text import Text

    console, record = _console(), row.record
    thinking = ", thinking" if record.get("thinking") else ""
    place = f"step {row.step}, prompt {row.number}, task {record['task']}{thinking}, policy {record.get('policy', '?')}"
    if record.get("round"):
        place += f", replaces a dead group (round {record['round']})"
    console.print(Text(_plain(place), style="bold"))
    console.print(Text(_plain(record["question"])))
    if record.get("reference"):
        console.print(Text(f"expected: {_plain(str(record['reference']))}", style="dim"))
    for number, answer in enumerate(row.answers, 1):
        facts = [f"reward {_number(answer['reward'])}" if answer["reward"] is not None else "not graded"]
        facts += [f"{name} {_number(value)}" for name, value in answer["parts"].items()]
        facts += [f"advantage {answer['advantage']:+.3g}", f"{len(answer['tokens'])} tokens"]
        if answer["finish_reason"] != "stop":
            facts.append("did not stop")
        sign = answer["advantage"]
        colour = "yellow" if answer["reward"] is None else "green" if sign > 0 else "red" if sign < 0 else "dim"
        console.print()
        console.print(Text(_plain(f"{number}. {', '.join(facts)}"), style=colour))
        console.print(Text("\n".join(f"   {line}" for line in _plain(answer["text"]).splitlines()) or "   (empty)"))


def _console() -> Any:
    from luopan.pipeline.reporter import make_console

    return make_console()


def _plain(text: str) -> str:
    from luopan.rl.browse import printable

    return printable(text)


def _line(text: str, width: int) -> str:
    """The text in one line, cut."""
    joined = " ".join(_plain(text).split())
    return joined if len(joined) <= width else joined[: width - 1] + "…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _some(count: int) -> str:
    return str(count) if count else ""
