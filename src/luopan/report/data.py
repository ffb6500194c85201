"""What a report is made of: plain data that the stages hand over.

A `RunReport` holds `StageReport`s; a stage hands over figures (before and after), series (curves over steps), pictures
(`LineChart`, `BarChart`, `Mixture`, `Funnel`, `HeatTable`, `Image`), tables, samples and notes. Nothing here knows what
a stage is: `kind` is a word to print. Everything but `kind` and `name` may be missing, and a missing part is left out
of the page. `RunReport.model_dump_json()` and `model_validate_json()` round-trip, so a report can be kept and rendered
again later.

Units: seconds, bytes, tokens, FLOPs (floating-point operations, not per second). Shares and accuracies are fractions
(0.87), shown as percentages where `unit="%"`: the page multiplies by 100, the data never does. A standard error has the
unit of its value. A number that could not be measured is `None`; NaN is accepted and shown as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Number = float | None
Point = tuple[float, Number]  # (step, position, tokens …; value or None where there is a gap)
Cell = bool | int | float | str | None


class Plain(BaseModel):
    """Frozen, unknown keys refused; NaN and infinity survive a JSON round trip."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", ser_json_bytes="base64", val_json_bytes="base64"
    )


# ---------------------------------------------------------------- figures


class Figure(Plain):
    """One number a stage moved. `before` is the input model (or None where there is none), `after` the stage's own.

    `baseline` is something to beat that is not the input model: a bigram, chance, a majority answer.
    `headline` figures appear in "At a glance"; the others in the stage's own section only.
    `higher_is_better=None` says that neither direction is good in itself (a length, a vocabulary size).
    """

    name: str
    before: Number = None
    after: Number = None
    unit: str = ""  # "%" (values are fractions), "bits/byte", "tokens", …
    higher_is_better: bool | None = True
    stderr_before: Number = None
    stderr_after: Number = None
    n: int | None = None  # cases behind the figure
    baseline: Number = None
    baseline_name: str = "baseline"
    headline: bool = True
    help: str = ""  # one sentence: how it was measured


# ---------------------------------------------------------------- pictures


class Mark(Plain):
    """A line across a chart: a place on the x axis (pretrained length, decay starts) or a value to compare with."""

    value: float
    label: str


class Line(Plain):
    """One curve. `style="points"` is for few measured values (held-out loss), `dashed` for "before"."""

    name: str
    points: Sequence[Point]
    style: Literal["line", "dashed", "points"] = "line"
    stderr: Sequence[Number] | None = None  # one per point, drawn as a band of ±1 standard error


class LineChart(Plain):
    type: Literal["lines"] = "lines"
    title: str
    lines: list[Line]
    x_label: str = "step"
    y_label: str = ""
    unit: str = ""
    x_log: bool = False
    y_log: bool = False
    x_marks: list[Mark] = []
    y_marks: list[Mark] = []
    y_from_zero: bool = False
    y_max: float | None = None  # what lies above is cut off, and the picture says so
    smooth: bool = False  # long noisy curves: a moving average over the faint raw line, and the picture says so
    caption: str = ""


class Bars(Plain):
    """The bars of one colour: one value per category of the chart."""

    name: str
    values: Sequence[Number]
    stderr: Sequence[Number] | None = None


class BarChart(Plain):
    """Categories down the page, for each of them one bar per `Bars` (before/after, or the models)."""

    type: Literal["bars"] = "bars"
    title: str
    categories: list[str]
    bars: list[Bars]
    unit: str = ""
    higher_is_better: bool | None = None
    marks: list[Mark] = []  # vertical lines across all categories
    chance: Sequence[Number] | None = None  # a tick per category: chance level or a baseline
    chance_name: str = "chance"
    n: list[int | None] | None = None  # cases per category
    caption: str = ""

    @model_validator(mode="after")
    def _lengths_agree(self) -> BarChart:
        for bars in self.bars:
            if len(bars.values) != len(self.categories) or (
                bars.stderr is not None and len(bars.stderr) != len(self.categories)
            ):
                raise ValueError(f"{self.title}: bars {bars.name!r} need one value per category")
        for extra in (self.chance, self.n):
            if extra is not None and len(extra) != len(self.categories):
                raise ValueError(f"{self.title}: chance and n need one value per category")
        return self


class Mixture(Plain):
    """How a whole divides: rows (e.g. "by bytes", "by tokens", or one per stage) of {part: amount}."""

    type: Literal["mixture"] = "mixture"
    title: str
    rows: Mapping[str, Mapping[str, float]]
    unit: str = ""  # unit of the amounts: "bytes", "tokens", "documents"
    caption: str = ""


class FunnelStep(Plain):
    """What was left after this step. The first step is what came in."""

    name: str
    documents: int
    bytes: int | None = None


class Funnel(Plain):
    type: Literal["funnel"] = "funnel"
    title: str
    steps: list[FunnelStep]
    caption: str = ""


class HeatColumn(Plain):
    name: str
    unit: str = "%"
    higher_is_better: bool | None = True
    chance: Number = None
    n: int | None = None


class HeatCell(Plain):
    value: Number = None
    stderr: Number = None


class HeatTable(Plain):
    """Models × tasks. Colour runs from the worst to the best of each column (from chance where it is given)."""

    type: Literal["heat"] = "heat"
    title: str
    rows: list[str]
    columns: list[HeatColumn]
    cells: list[list[HeatCell]]  # [row][column]
    row_name: str = "model"
    caption: str = ""

    @model_validator(mode="after")
    def _is_a_rectangle(self) -> HeatTable:
        if len(self.cells) != len(self.rows) or any(len(row) != len(self.columns) for row in self.cells):
            raise ValueError(f"{self.title}: cells must be {len(self.rows)} rows of {len(self.columns)}")
        return self


class Image(Plain):
    """A picture made elsewhere (matplotlib), shown as an inline data URI: scripts in it cannot run."""

    type: Literal["image"] = "image"
    title: str
    alt: str
    data: bytes
    media_type: Literal["image/svg+xml", "image/png", "image/jpeg"] = "image/svg+xml"
    caption: str = ""


Picture = Annotated[LineChart | BarChart | Mixture | Funnel | HeatTable | Image, Field(discriminator="type")]


# ---------------------------------------------------------------- tables, notes, samples


class Table(Plain):
    """Numbers are right-aligned and shortened. `units[i]` is the unit of column i ("%": the values are fractions)."""

    title: str
    columns: list[str]
    rows: Sequence[Sequence[Cell]]
    units: list[str] | None = None
    total: Sequence[Cell] | None = None  # a last row, set off
    caption: str = ""

    @model_validator(mode="after")
    def _is_a_rectangle(self) -> Table:
        width = len(self.columns)
        rows = self.rows if self.total is None else [*self.rows, self.total]
        if any(len(row) != width for row in rows) or (self.units is not None and len(self.units) != width):
            raise ValueError(f"{self.title}: every row (and units) needs {width} cells")
        return self


class Note(Plain):
    text: str
    level: Literal["info", "good", "warning", "bad"] = "info"


class Message(Plain):
    role: str
    content: str


class Answer(Plain):
    """What one model said. `correct` None: not graded."""

    text: str
    thinking: str | None = None
    correct: bool | None = None
    finish_reason: str | None = None  # "stop" or "length"
    tokens: int | None = None


class Sample(Plain):
    """One prompt and what each model answered: {model name: answer}, in the order of the stages."""

    messages: list[Message]  # the prompt; for a base model one message with role "text"
    answers: dict[str, Answer]
    title: str = ""
    group: str = ""  # samples of one group stand together: "identity", "addition", …
    thinking: bool | None = None  # thinking asked for, asked not to, or not applicable
    expected: str | None = None


class SetAside(Plain):
    """What was rejected, skipped or cut, and why. `examples` are shown shortened, behind a fold."""

    stage: str
    reason: str
    count: int
    unit: str = "documents"
    of: int | None = None  # out of how many
    examples: list[str] = []


# ---------------------------------------------------------------- stages and the run


class StageReport(Plain):
    """One stage. `series` are curves over steps by their names in metrics.jsonl; the page groups the ones it knows
    (loss with held_out_loss, learning_rate, grad_norm, tokens_per_second, reward …) and draws every other one too."""

    kind: str
    name: str
    summary: str = ""  # a sentence or two: what this stage did
    status: Literal["done", "reused", "partial", "failed", "not run"] = "done"
    identity: str = ""  # hash
    inputs: dict[str, str] = {}  # role -> name of a stage (or a path, a hub id)
    figures: list[Figure] = []
    series: Mapping[str, Sequence[Point]] = {}
    marks: list[Mark] = []  # places on the step axis: "decay starts", "resumed"
    pictures: list[Picture] = []
    tables: list[Table] = []
    samples: list[Sample] = []
    notes: list[Note] = []
    set_aside: list[SetAside] = []
    seconds: float | None = None
    flops: float | None = None  # training FLOPs, computed from shape and tokens
    tokens: int | None = None  # tokens the stage trained on or generated
    parameters: int | None = None
    peak_memory_bytes: int | None = None


class RunReport(Plain):
    """One run of a recipe, whole or in part."""

    name: str
    created: datetime | None = None
    seed: int | None = None
    description: str = ""
    hardware: dict[str, str] = {}
    versions: dict[str, str] = {}
    seconds: float | None = None  # None: the sum over the stages
    flops: float | None = None  # None: the sum over the stages
    peak_memory_bytes: int | None = None  # None: the largest of the stages
    stages: list[StageReport] = []
    samples: list[Sample] = []
    set_aside: list[SetAside] = []  # those that belong to no stage
    recipe: str = ""  # YAML, as resolved
    limits: list[str] = []  # honest: what this model and these numbers cannot do; one paragraph each
    chat_command: str = ""
    notes: list[Note] = []


def series_from_metrics(rows: Iterable[Mapping[str, Any]], x: str = "step") -> dict[str, list[Point]]:
    """{name: [(x, value), …]} from the lines of a metrics.jsonl; what is not a number is left out.

    A later line for the same x replaces the earlier one (a resumed run may log a step twice); sorted by x.
    """
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        at = row.get(x)
        if isinstance(at, bool) or not isinstance(at, int | float):
            continue
        for name, value in row.items():
            if name != x and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, {})[float(at)] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}
