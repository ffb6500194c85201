"""The pictures the stages want, ready made: plain numbers in, a `Picture` or `Table` of `data.py` out.

Small functions, no drawing: what they return is data, so it can be kept as JSON and drawn by `page.render`. Fractions
in, percentages shown. A stage is free to build a `LineChart` or `BarChart` of its own instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.report.data import (
    BarChart,
    Bars,
    Cell,
    Funnel,
    FunnelStep,
    HeatCell,
    HeatColumn,
    HeatTable,
    Line,
    LineChart,
    Mark,
    Mixture,
    Number,
    Point,
    Table,
)

Measured = float | tuple[float, float] | None  # a value, or (value, standard error)


def _value(measured: Measured) -> Number:
    return measured[0] if isinstance(measured, tuple) else measured


def _stderr(measured: Measured) -> Number:
    return measured[1] if isinstance(measured, tuple) else None


def curation_funnel(
    steps: Sequence[tuple[str, int] | tuple[str, int, int]], title: str = "What curation kept", caption: str = ""
) -> Funnel:
    """`steps`: (name, documents left after it[, bytes left]); the first is what came in."""
    return Funnel(
        title=title,
        steps=[FunnelStep(name=s[0], documents=s[1], bytes=s[2] if len(s) > 2 else None) for s in steps],
        caption=caption,
    )


def source_mixture(
    sources: Mapping[str, float], unit: str = "bytes", title: str = "Sources of the corpus", caption: str = ""
) -> Mixture:
    """One stacked bar: {source: amount}. For several (by bytes, by tokens; pretrain, midtrain) build a `Mixture`."""
    return Mixture(title=title, rows={"": dict(sources)}, unit=unit, caption=caption)


def tokenizer_fertility(
    bytes_per_token: Mapping[str, Mapping[str, float]] | Mapping[str, float], caption: str = ""
) -> BarChart:
    """{source: bytes per token}, or {tokenizer: {source: …}} to compare tokenizers; more is shorter texts."""
    first = next(iter(bytes_per_token.values()), None)
    tokenizers: dict[str, Mapping[str, float]] = (
        {"bytes per token": bytes_per_token} if not isinstance(first, Mapping) else dict(bytes_per_token)  # type: ignore[arg-type, dict-item]
    )
    sources = list(dict.fromkeys(source for table in tokenizers.values() for source in table))
    return BarChart(
        title="Bytes per token, by source",
        categories=sources,
        bars=[Bars(name=name, values=[table.get(s) for s in sources]) for name, table in tokenizers.items()],
        higher_is_better=True,
        caption=caption,
    )


def bits_per_byte(
    model: Mapping[str, Measured], baselines: Mapping[str, Mapping[str, Measured]], caption: str = ""
) -> BarChart:
    """Held-out bits per byte of the model beside its baselines: {text: bits}, {baseline: {text: bits}}."""
    texts = list(dict.fromkeys([*model, *(t for table in baselines.values() for t in table)]))
    tables: dict[str, Mapping[str, Measured]] = {**baselines, "this model": model}
    return BarChart(
        title="Held-out bits per byte against baselines",
        categories=texts,
        bars=[_bars(name, [table.get(t) for t in texts]) for name, table in tables.items()],
        unit="bits/byte",
        higher_is_better=False,
        caption=caption,
    )


def _bars(name: str, values: Sequence[Measured]) -> Bars:
    spreads = [_stderr(v) for v in values]
    return Bars(
        name=name, values=[_value(v) for v in values], stderr=spreads if any(s is not None for s in spreads) else None
    )


def loss_by_position(
    before: Sequence[Point], after: Sequence[Point], pretrained_length: int, caption: str = ""
) -> LineChart:
    """Loss at each position of a long held-out text, before and after midtraining; beyond the mark is new ground."""
    return LineChart(
        title="Loss by position in the text",
        lines=[Line(name="before", points=list(before), style="dashed"), Line(name="after", points=list(after))],
        x_label="position (tokens)",
        y_label="loss",
        unit="nats/token",
        x_marks=[Mark(value=pretrained_length, label=f"pretrained length {pretrained_length:,}")],
        caption=caption,
    )


def forgetting(before: Mapping[str, Measured], after: Mapping[str, Measured], caption: str = "") -> BarChart:
    """Bits per byte by kind of text (domain, general …) before and after: what was learnt and what it cost."""
    texts = list(dict.fromkeys([*before, *after]))
    return BarChart(
        title="Bits per byte: what was learnt, what was forgotten",
        categories=texts,
        bars=[_bars("before", [before.get(t) for t in texts]), _bars("after", [after.get(t) for t in texts])],
        unit="bits/byte",
        higher_is_better=False,
        caption=caption or "Lower is better. A bar that grew is text the model now predicts worse.",
    )


def skill_accuracy(
    before: Mapping[str, Measured],
    after: Mapping[str, Measured],
    *,
    chance: Mapping[str, float] | None = None,
    n: Mapping[str, int] | None = None,
    title: str = "Accuracy by skill, held-out cases",
    names: tuple[str, str] = ("before", "after"),
    caption: str = "",
) -> BarChart:
    """{skill: accuracy or (accuracy, stderr)} before and after, with an optional chance level per skill."""
    skills = list(dict.fromkeys([*before, *after]))
    return BarChart(
        title=title,
        categories=skills,
        bars=[_bars(names[0], [before.get(s) for s in skills]), _bars(names[1], [after.get(s) for s in skills])],
        unit="%",
        higher_is_better=True,
        chance=None if chance is None else [chance.get(s) for s in skills],
        n=None if n is None else [n.get(s) for s in skills],
        caption=caption,
    )


def sft_mixture(rows: Sequence[Mapping[str, Any]], title: str = "What it was taught from") -> Table:
    """The mixture table. Each row: source, rows, tokens, in_context, in_response, turns (totals over the source).

    `in_context` are prompt tokens (seen, not trained on), `in_response` the trained ones. The share is by tokens; mean
    tokens per example and mean turns are computed here.
    """

    def cells(name: str, count: float, tokens: float, context: float, response: float, turns: float) -> list[Cell]:
        per = (lambda total: total / count) if count else (lambda total: None)  # type: ignore[misc, return-value]
        share = tokens / all_tokens if all_tokens else None
        return [name, int(count), share, int(tokens), per(tokens), per(context), per(response), per(turns)]

    def total(key: str) -> float:
        return float(sum(float(row.get(key, 0)) for row in rows))

    keys = ("rows", "tokens", "in_context", "in_response", "turns")
    all_tokens = total("tokens")
    return Table(
        title=title,
        columns=["source", "rows", "% of tokens", "tokens", "tokens per example", "in context", "in response", "turns"],
        units=["", "", "%", "", "", "", "", ""],
        rows=[cells(str(row["source"]), *(float(row.get(k, 0)) for k in keys)) for row in rows],
        total=cells("all", *(total(k) for k in keys)),
        caption="Context and response are mean tokens per example; only the response is trained on.",
    )


def preference_rates(
    win_rate: Measured,
    flaw_rate_before: Measured,
    flaw_rate_after: Measured,
    *,
    n: int | None = None,
    caption: str = "",
) -> BarChart:
    """Win rate on held-out pairs and the rate of the flaw in sampled answers before and after."""
    values = [win_rate, flaw_rate_before, flaw_rate_after]
    return BarChart(
        title="Win rate, and how often the flaw is sampled",
        categories=["win rate, held-out pairs", "flaw sampled, before", "flaw sampled, after"],
        bars=[_bars("share", values)],
        unit="%",
        chance=[0.5, None, None],
        chance_name="coin toss",
        n=None if n is None else [n, n, n],
        caption=caption,
    )


def curve(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    y_label: str = "",
    unit: str = "",
    y_from_zero: bool = False,
    smooth: bool = True,
    x_label: str = "step",
    x_marks: Sequence[Mark] = (),
    caption: str = "",
) -> LineChart:
    """Any curves over steps (reward, completion length, margin)."""
    return LineChart(
        title=title,
        lines=[Line(name=name, points=list(points)) for name, points in series.items()],
        x_label=x_label,
        y_label=y_label,
        unit=unit,
        y_from_zero=y_from_zero,
        smooth=smooth,
        x_marks=list(x_marks),
        caption=caption,
    )


def eval_table(
    results: Mapping[str, Mapping[str, Measured]],
    *,
    chance: Mapping[str, float] | None = None,
    units: Mapping[str, str] | None = None,
    higher_is_better: Mapping[str, bool | None] | None = None,
    n: Mapping[str, int] | None = None,
    title: str = "All models on all tasks",
    caption: str = "",
) -> HeatTable:
    """{model: {task: accuracy or (accuracy, stderr)}} as a heat table. Units default to "%", higher is better."""
    tasks = list(dict.fromkeys(task for scores in results.values() for task in scores))
    columns = [
        HeatColumn(
            name=task,
            unit=(units or {}).get(task, "%"),
            higher_is_better=(higher_is_better or {}).get(task, True),
            chance=(chance or {}).get(task),
            n=(n or {}).get(task),
        )
        for task in tasks
    ]
    cells = [
        [HeatCell(value=_value(scores.get(task)), stderr=_stderr(scores.get(task))) for task in tasks]
        for scores in results.values()
    ]
    return HeatTable(title=title, rows=list(results), columns=columns, cells=cells, caption=caption)
