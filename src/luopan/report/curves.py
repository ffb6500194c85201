"""From a stage's series (the columns of metrics.jsonl) to line charts.

The names the loop and the objectives log are known here and drawn together where they belong together; every other
series gets a chart of its own, so nothing logged is lost. Counters that only grow (seconds, tokens) are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from luopan.report.data import Line, LineChart, Mark, Point, StageReport
from luopan.report.numbers import known

NOT_DRAWN = frozenset({"step", "seconds", "tokens", "epoch", "micro_batches", "wall_seconds", "total_tokens"})


@dataclass(frozen=True)
class Known:
    """A picture of series that belong together: {series name: its name in the picture}."""

    title: str
    series: dict[str, str]
    unit: str = ""
    from_zero: bool = False
    points: frozenset[str] = frozenset()  # drawn as points: few measured values
    main: bool = True  # shown large; the rest stands in a row of small pictures
    smooth: bool = True
    may_cut: bool = False  # the first steps may be cut off so that they do not flatten the rest


SOURCE = ("source/", "/loss")  # around a source's name: the loss on it, all sources in one picture
HELD_OUT = ("held_out_loss", "heldout_loss", "eval_loss", "validation_loss")
KNOWN = (
    Known("Loss", {"loss": "train", **dict.fromkeys(HELD_OUT, "held out")}, points=frozenset(HELD_OUT), may_cut=True),
    Known("Held-out bits per byte", {"bits_per_byte": "held out", "held_out_bits_per_byte": "held out"}, "bits/byte"),
    Known(
        "Reward",
        {"reward": "mean reward", "reward_mean": "mean reward", "reward_less_kl": "less the price of the divergence"},
    ),
    Known("Value model", {"value": "mean value", "return": "mean return"}),
    Known(
        "Verifier accuracy while training", {"accuracy": "sampled answers", "verifier_accuracy": "held out"}, "%", True
    ),
    Known(
        "Completion length",
        {"completion_length": "mean", "completion_tokens": "mean", "completions/mean_length": "mean"},
        "tokens",
        True,
    ),
    Known("Answers that end", {"stop_rate": "share of answers"}, "%", True, main=False),
    Known("Entropy of the policy", {"entropy": "mean over tokens"}, "nats", True, main=False),
    Known("Divergence from the reference", {"kl": "mean"}, "nats", main=False),
    Known("Reward margin, chosen over rejected", {"rewards/margins": "margin", "margin": "margin"}),
    Known("Pairs ranked right", {"rewards/accuracies": "share of pairs", "pair_accuracy": "share of pairs"}, "%", True),
    Known("Implicit rewards", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
    Known("Learning rate", {"learning_rate": "learning rate"}, main=False, from_zero=True, smooth=False),
    Known("Gradient norm before clipping", {"grad_norm": "gradient norm"}, main=False, from_zero=True, may_cut=True),
    Known("Tokens per second", {"tokens_per_second": "tokens/s"}, main=False, from_zero=True),
)


def stage_curves(stage: StageReport) -> tuple[list[LineChart], list[LineChart], list[LineChart]]:
    """(main charts, small charts, the other series): every drawable series of the stage is in exactly one of them."""
    series = {name: points for name, points in stage.series.items() if _drawable(name, points)}
    main: list[LineChart] = []
    small: list[LineChart] = []
    for entry in (*KNOWN, by_source(series)):
        present = [name for name in entry.series if name in series]
        if not present:
            continue
        lines = [
            Line(name=entry.series[n], points=series.pop(n), style="points" if n in entry.points else "line")
            for n in present
        ]
        (main if entry.main else small).append(_chart(entry, lines, stage.marks))
    rest = [
        _chart(Known(_words(name), {}), [Line(name=_words(name), points=points)], stage.marks)
        for name, points in sorted(series.items())
    ]
    return main, small, rest


def by_source(names: Iterable[str]) -> Known:
    """The loss on each source of a mixture."""
    before, after = SOURCE
    found = {
        name: name[len(before) : -len(after)] for name in names if name.startswith(before) and name.endswith(after)
    }
    return Known("Loss by source", dict(sorted(found.items())), may_cut=True)


def _chart(entry: Known, lines: list[Line], marks: list[Mark]) -> LineChart:
    return LineChart(
        title=entry.title,
        lines=lines,
        unit=entry.unit,
        y_from_zero=entry.from_zero,
        y_max=_cut(lines) if entry.may_cut else None,
        smooth=entry.smooth,
        x_marks=marks if entry.main else [],
    )


def _cut(lines: list[Line]) -> float | None:
    """Where to cut a picture off so that the first 3% of steps do not flatten all that follows; None: nowhere."""
    last = max(x for line in lines for x, _ in line.points)
    first = min(x for line in lines for x, _ in line.points)
    after = first + 0.03 * (last - first)
    finite = [(x, v) for line in lines for x, v in line.points if v is not None and known(v)]
    later = [v for x, v in finite if x > after]
    if len(later) < 30:
        return None
    high, low = max(later), min(later)
    room = high + 0.08 * (high - low)
    return room if max(v for _, v in finite) > high + 0.5 * (high - low) else None


def _drawable(name: str, points: Sequence[Point]) -> bool:
    if name in NOT_DRAWN or name.endswith("_stderr"):  # a standard error is a band around its figure, or nothing
        return False
    return any(v is not None and known(v) for _, v in points)


def _words(name: str) -> str:
    words = name.replace("_", " ").replace("/", ": ")
    return words[:1].upper() + words[1:]
