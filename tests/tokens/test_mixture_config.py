"""What may be said about a mixture, and how long its stages are in rows."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luopan.tokens.mixture_config import MixtureConfig, MixtureStageConfig, stage_rows

WEB = {"web": 0.9, "maths": 0.1}


def stages(*lengths: dict[str, Any]) -> list[MixtureStageConfig]:
    return [MixtureStageConfig(**length, mixture=WEB) for length in lengths]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mixture": WEB, "mixture_stages": [{"share": 0.5, "mixture": WEB}, {"mixture": WEB}]}, "not both"),
        ({"mixture_stages": [{"mixture": WEB}]}, "at least 2"),
        ({"mixture_stages": [{"mixture": WEB}, {"mixture": WEB}]}, "stage 1 of mixture_stages needs tokens or share"),
        ({"mixture_stages": [{"share": 0.5, "tokens": 9, "mixture": WEB}, {"mixture": WEB}]}, "tokens or share, not"),
        ({"mixture_stages": [{"share": 0.5, "mixture": WEB}, {"share": 0.4, "mixture": WEB}]}, "add up to 0.9"),
        ({"mixture_stages": [{"share": 0.6, "mixture": WEB}] * 2 + [{"mixture": WEB}]}, "with more to come"),
        ({"mixture": WEB, "mixture_temperature": 2}, "mixture_temperature has no effect"),
        ({"mixture_temperature": 0}, "greater than 0"),
        ({"max_epochs": 0}, "greater than 0"),
        ({"max_epochs": {}}, "max_epochs names no source"),
        ({"mixture": {"web": -1}}, "greater than or equal to 0"),
    ],
)
def test_what_a_mixture_refuses(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MixtureConfig(**values)


def test_what_is_fine() -> None:
    MixtureConfig()
    MixtureConfig(mixture_temperature=3, max_epochs=4)
    MixtureConfig(mixture={"corpus": 1, "maths": 2}, mixture_temperature=3, max_epochs={"maths": 4})
    MixtureConfig(mixture_stages=[{"tokens": 8.14e12, "mixture": WEB}, {"mixture": WEB}])


def test_lengths_in_rows() -> None:
    assert stage_rows(stages({"share": 0.7}, {"share": 0.2}, {"share": 0.1}), 100, 64) == [70, 20, 10]
    assert stage_rows(stages({"tokens": 64 * 30}, {"share": 0.2}, {}), 100, 64) == [30, 20, 50]
    # 150 tokens are 2.34 rows, twice as many 4.69: borders are rounded, so no stage drifts.
    assert stage_rows(stages({"tokens": 150}, {"tokens": 150}, {}), 10, 64) == [2, 3, 5]
    # The end of the run is a whole number of steps: a last length that misses it by little is meant for it.
    assert stage_rows(stages({"tokens": 3200}, {"tokens": 3250}), 100, 64) == [50, 50]


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (({"tokens": 3200}, {"tokens": 3000}), "6,200 tokens long in all, and the run reads 6,400"),
        (({"tokens": 6400}, {}), "stage 2 of mixture_stages has nothing to read"),
        (({"tokens": 9000}, {}), "has nothing to read|9,000"),
        (({"tokens": 10}, {}), "stage 1 of mixture_stages is shorter than a row of 64 tokens"),
    ],
)
def test_lengths_that_do_not_make_up_the_run(lengths: tuple[dict[str, Any], ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stage_rows(stages(*lengths), 100, 64)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=6), st.integers(200, 10**7), st.integers(2, 8192))
def test_shares_make_up_any_run(parts: list[float], rows: int, length: int) -> None:
    shares = [part / sum(parts) for part in parts]
    found = stage_rows(stages(*({"share": share} for share in shares)), rows, length)
    assert sum(found) == rows
    assert all(abs(count - share * rows) <= 1.01 for count, share in zip(found, shares))


def test_no_torch_and_no_numpy() -> None:
    code = "import sys, luopan.tokens.mixture_config; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
