"""Numbers in words, and verdicts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from luopan.report.data import Figure, StageReport, Table, series_from_metrics
from luopan.report.numbers import change, duration, error, flops, number, quantity, size, verdict, with_unit


@pytest.mark.parametrize(
    ("value", "unit", "stderr", "text"),
    [
        (0.873, "%", None, "87.3%"),
        (1.0, "%", None, "100.0%"),
        (-0.00001, "%", None, "0.0%"),
        (0.99952, "%", 0.0001, "99.95%"),
        (1.98, "", None, "1.98"),
        (1.98, "", 0.011, "1.980"),
        (12.3456, "", 0.5, "12.35"),
        (12340.0, "", None, "12,340"),
        (8.0, "", None, "8"),
        (3_020_000, "", None, "3.02M"),
        (3e-5, "", None, "3e\u22125"),
        (-0.25, "", None, "\u22120.25"),
        (0.0, "", None, "0"),
        (None, "%", None, "–"),
        (math.nan, "", None, "–"),
        (math.inf, "", None, "∞"),
    ],
)
def test_number(value: float | None, unit: str, stderr: float | None, text: str) -> None:
    assert number(value, unit, stderr) == text


def test_quantities() -> None:
    assert [quantity(v) for v in (860_672, 999, 1000, 3_014_656, 1e9, 999_999)] == [
        "861k",
        "999",
        "1k",
        "3.01M",
        "1G",
        "1M",
    ]
    assert [size(v) for v in (512, 2048, 1_130_000_000)] == ["512\u00a0B", "2\u00a0KiB", "1.05\u00a0GiB"]
    assert [duration(v) for v in (0.05, 7.12, 59.94, 59.96, 185, 7620, 100_000)] == [
        "50\u00a0ms",
        "7.1\u00a0s",
        "59.9\u00a0s",
        "1\u00a0min\u00a000\u00a0s",
        "3\u00a0min\u00a005\u00a0s",
        "2\u00a0h\u00a007\u00a0min",
        "1\u00a0d\u00a003\u00a0h",
    ]
    assert flops(3.22e13) == "3.22×10¹³\u00a0FLOPs" and flops(12.0) == "12\u00a0FLOPs"
    assert with_unit(1.5, "nats") == "1.5\u00a0nats" and with_unit(None, "nats") == "–"
    assert change(-0.27, "%") == "\u221227.0\u00a0points" and change(0.5, "nats") == "+0.5\u00a0nats"
    assert error(0.012, "%") == "±\u00a01.2" and error(0.011) == "±\u00a00.011" and error(None) == ""
    for call in (quantity, size, duration, flops):
        assert call(None) == call(math.nan) == "–"


@pytest.mark.parametrize(
    ("figure", "word"),
    [
        (Figure(name="f", before=0.5, after=0.6), "better"),
        (Figure(name="f", before=0.5, after=0.4), "worse"),
        (Figure(name="f", before=0.5, after=0.4, higher_is_better=False), "better"),
        (Figure(name="f", before=0.5, after=0.4, higher_is_better=None), "changed"),
        (Figure(name="f", before=0.5, after=0.5), "no clear change"),
        # The difference is 0.1; its standard error sqrt(0.03² + 0.04²) = 0.05, and 0.1 does not exceed 2 × 0.05.
        (Figure(name="f", before=0.5, after=0.6, stderr_before=0.03, stderr_after=0.0400001), "no clear change"),
        (Figure(name="f", before=0.5, after=0.61, stderr_before=0.03, stderr_after=0.04), "better"),
        (Figure(name="f", after=1.98, baseline=3.64, higher_is_better=False), "better"),
        (Figure(name="f", after=0.52, stderr_after=0.02, baseline=0.5), "no clear change"),
        (Figure(name="f", after=0.5), "measured"),
        (Figure(name="f", before=0.5, after=math.nan), "measured"),
    ],
)
def test_verdict(figure: Figure, word: str) -> None:
    assert verdict(figure).word == word


def test_verdict_names_what_it_was_held_against() -> None:
    told = verdict(Figure(name="f", after=2.0, baseline=3.5, baseline_name="bigram", higher_is_better=False))
    assert told.against == "bigram" and told.delta == -1.5


def test_series_from_metrics() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 2, "loss": 3.0, "note": "x", "flag": True},
        {"step": 1, "loss": 4, "lr": None},
        {"step": 2, "loss": 2.5},  # logged again after a resume
        {"loss": 9.0},
        {"step": "3", "loss": 9.0},
    ]
    assert series_from_metrics(rows) == {"loss": [(1.0, 4.0), (2.0, 2.5)]}
    assert series_from_metrics([]) == {}


def test_data_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError):
        StageReport(kind="sft", name="sft", sereis={})  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="needs 2 cells"):
        Table(title="t", columns=["a", "b"], rows=[["x"]])
