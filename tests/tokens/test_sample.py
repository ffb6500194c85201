from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from luopan.errors import RecipeError
from luopan.tokens.config import SampleConfig
from luopan.tokens.sample import draw_sample, plan_sample

SOURCES = {"web": [f"web {i:04d} " * 10 for i in range(1000)], "zh": [f"中文 {i:03d}" for i in range(100)]}
SIZES = {name: sum(len(text.encode()) for text in texts) for name, texts in SOURCES.items()}


def read(name: str) -> Iterator[str]:
    return iter(SOURCES[name])


def drawn(wanted: dict[str, float], seed: int = 0) -> dict[str, list[str]]:
    found = list(draw_sample(read, SIZES, wanted, seed))
    return {name: [text for text in found if text in set(texts)] for name, texts in SOURCES.items()}


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def test_everything_in_order_where_there_is_room() -> None:
    wanted = plan_sample(SIZES, None, 10**9)
    assert list(draw_sample(read, SIZES, wanted, 0)) == [*SOURCES["web"], *SOURCES["zh"]]


def test_a_share_comes_from_all_over_a_source() -> None:
    wanted = plan_sample(SIZES, None, 10_000)
    found = drawn(wanted)
    for name in SOURCES:
        assert size(found[name]) == pytest.approx(wanted[name], abs=100)
    numbers = [int(text.split()[1]) for text in found["web"]]
    assert min(numbers) < 100 and max(numbers) > 900 and numbers == sorted(numbers)
    assert drawn(wanted) == found != drawn(wanted, seed=1)


def test_weights_are_shares_of_the_sample_and_small_sources_come_again() -> None:
    wanted = plan_sample(SIZES, {"web": 1, "zh": 3}, 8_000)
    assert wanted == {"web": 2000, "zh": 6000}
    found = drawn(wanted)
    assert size(found["zh"]) == pytest.approx(6000, abs=50)
    assert found["zh"][:100] == found["zh"][100:200] == SOURCES["zh"]
    assert plan_sample(SIZES, {"web": 1, "zh": 0}, 8_000) == {"web": 8000}
    assert sum(plan_sample(SIZES, {"web": 1, "zh": 1}, 10**9).values()) == sum(SIZES.values())


def test_one_document_at_least() -> None:
    assert list(draw_sample(lambda _: iter(["x" * 1000]), {"a": 1000}, {"a": 1.0}, 0)) == ["x" * 1000]


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(RecipeError, match="'wbe', which is no source"):
        plan_sample(SIZES, {"wbe": 1, "zh": 1}, 100)
    with pytest.raises(RecipeError, match="do not say what to do with zh"):
        plan_sample(SIZES, {"web": 1}, 100)
    for weights, match in (({"web": 0}, "every weight is 0"), ({"web": -1}, "greater than or equal to 0")):
        with pytest.raises(ValidationError, match=match):
            SampleConfig(weights=weights)
