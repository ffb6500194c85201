"""A best mixture is named only above the noise: Student's distribution against scipy, verdicts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luopan.stages.mixture_verdict import critical, judge, two_sided


def test_students_distribution_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 5, 8, 29, 30):
        for t in (0.0, 0.3, 1.0, 2.5, 12.7, 1e4):
            assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-12)
        for p in (0.3, 0.05, 0.001):
            assert critical(p, freedom) == pytest.approx(stats.t.isf(p / 2, freedom), rel=1e-6)


def test_students_distribution_from_the_table() -> None:
    for freedom, t in ((1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228), (30, 2.042)):
        assert two_sided(t, freedom) == pytest.approx(0.05, abs=2e-4)
    assert two_sided(math.inf, 3) == 0.0 and two_sided(0.0, 3) == 1.0


def test_a_clear_winner_by_hand() -> None:
    # Seeds move all candidates alike; a is 0.10, 0.11, 0.09 below b: mean 0.10, sd 0.01, stderr 0.01 / sqrt(3), t 17.3.
    a = [1.00, 1.50, 1.20]
    verdict = judge({"b": [1.10, 1.61, 1.29], "a": a}, 0.95)
    (pair,) = verdict.comparisons
    assert (pair.better, pair.worse) == ("a", "b") and pair.difference == pytest.approx(0.10)
    assert pair.stderr == pytest.approx(0.01 / math.sqrt(3))
    assert pair.p == pytest.approx(two_sided(0.10 / (0.01 / math.sqrt(3)), 2))
    assert verdict.clear and verdict.best == "a" and not verdict.tied
    assert verdict.text().startswith("a is best: 0.1000 bits/byte (± 0.0058) below b, the next one, over 3 seeds")


def test_a_difference_within_the_noise_names_no_winner() -> None:
    verdict = judge({"a": [1.0, 1.2, 1.1], "b": [1.1, 1.1, 1.15]}, 0.95)
    assert not verdict.clear and verdict.tied == ("b",) and verdict.best == "a"
    assert verdict.text().startswith("No difference above noise between a and b: a has the lowest mean")
    assert verdict.visible == pytest.approx(critical(0.05, 2) * verdict.comparisons[0].stderr)


def test_one_may_be_worse_where_two_are_tied() -> None:
    verdict = judge({"a": [1.0, 1.2, 1.1, 1.0], "b": [1.03, 1.21, 1.14, 1.00], "c": [3.0, 3.2, 3.1, 3.01]}, 0.95)
    assert verdict.tied == ("b",)
    tied, clear, _ = verdict.comparisons
    assert tied.p == pytest.approx(
        min(1.0, 3 * two_sided(tied.difference / tied.stderr, 3))
    )  # three pairs are looked at
    assert verdict.visible == pytest.approx(critical(0.05 / 3, 3) * tied.stderr)  # and not that of the clear pair
    assert clear.stderr != tied.stderr
    assert "between a and b" in verdict.text() and verdict.text().endswith("c is worse.")


def test_the_same_figures_are_no_difference_and_equal_gaps_are_one() -> None:
    assert judge({"a": [1.0, 2.0], "b": [1.0, 2.0]}, 0.95).tied == ("b",)
    assert judge({"a": [1.0, 2.0], "b": [1.5, 2.5]}, 0.95).clear
    assert judge({"a": [1.0, 2.0], "b": [1.5, 2.5]}, 0.95).plain()["clear"] is True


@pytest.mark.parametrize("candidates", [2, 4])
def test_equal_candidates_are_told_apart_no_more_often_than_promised(candidates: int) -> None:
    draw = np.random.default_rng(0)
    wrong = sum(judge({f"c{i}": list(draw.normal(size=4)) for i in range(candidates)}, 0.9).clear for _ in range(1500))
    assert wrong / 1500 < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 1500)
    found = sum(
        judge({"low": list(draw.normal(size=8)), "high": list(draw.normal(3, 1, size=8))}, 0.9).clear
        for _ in range(200)
    )
    assert found > 190
