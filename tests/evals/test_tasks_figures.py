"""Standard errors, paired differences and pass@k, worked by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from luopan.evals.tasks.figures import Difference, Figure, paired, pass_at, spread


def test_a_mean_of_right_and_wrong_has_the_binomial_spread():
    figure = Figure((1.0, 0.0, 1.0, 1.0, None))
    assert (figure.value, figure.n) == (0.75, 4)
    assert figure.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert figure.pulls() == [0.25, -0.75, 0.25, 0.25, None]
    assert Figure((None, None)).value is None and Figure((1.0,)).stderr is None


def test_a_ratio_weighs_rows_and_its_spread_is_the_linearised_one():
    # 10 bits in 10 bytes, 30 in 20, 20 in 10: 60 / 40.
    figure = Figure((10.0, 30.0, 20.0), (10.0, 20.0, 10.0))
    assert figure.value == 1.5
    pulls = np.array([10 - 15, 30 - 30, 20 - 15]) / (40 / 3)
    assert figure.pulls() == pytest.approx(pulls.tolist())
    assert figure.stderr == pytest.approx(pulls.std(ddof=1) / math.sqrt(3))


def test_a_paired_difference_leaves_out_what_is_hard_for_both():
    first, second = Figure((1.0, 0.0, 1.0, 0.0, None)), Figure((1.0, 1.0, 1.0, 0.0, 1.0))
    found = paired(first, second)
    assert found is not None and (found.value, found.n) == (0.25, 4)
    assert found.stderr == pytest.approx(0.25)  # differences 0, 1, 0, 0: deviation 0.5 over the root of 4
    assert found.stderr < math.hypot(first.stderr or 0, second.stderr or 0)
    assert not found.clear and Difference(0.6, 0.25, 4).clear
    assert paired(Figure((None, 1.0)), Figure((1.0, None))) is None
    same = paired(first, first)
    assert same is not None and (same.value, same.stderr) == (0.0, 0.0) and not same.clear


def test_models_with_other_weights_are_compared_by_their_ratios():
    one, other = Figure((10.0, 20.0), (10.0, 10.0)), Figure((10.0, 24.0), (9.0, 10.0))
    found = paired(one, other)
    assert found is not None and found.value == pytest.approx(34 / 19 - 1.5)


@pytest.mark.parametrize(("n", "correct", "k"), [(5, 2, 1), (5, 2, 3), (5, 0, 5), (4, 4, 2), (6, 3, 4)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n: int, correct: int, k: int):
    draws = list(combinations(range(n), k))
    assert pass_at(k, n, correct) == pytest.approx(sum(min(draw) < correct for draw in draws) / len(draws))


def test_spread_of_too_few():
    assert spread([1.0, None]) is None and spread([1.0, 3.0]) == 1.0
