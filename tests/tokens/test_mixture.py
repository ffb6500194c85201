"""The plan of a mixture: what is read, caps, what repeating is worth; each figure against a hand-worked one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luopan.errors import DataError
from luopan.tokens.mixture import FREE_EPOCHS, MixturePlan, columns, plan_mixture, tempered, worth_of
from luopan.tokens.order import DataOrder, MixtureStage

SIZES = {"web": 100_000, "code": 10_000, "maths": 1_000}


def shares(plan: MixturePlan) -> dict[str, float]:
    return {part.name: part.share for part in plan.sources}


# ---- temperature and worth ----


def test_temperature_by_hand() -> None:
    assert tempered({"a": 16.0, "b": 1.0}, 1.0) == {"a": 1.0, "b": 1 / 16}
    assert tempered({"a": 16.0, "b": 1.0}, 2.0) == {"a": 1.0, "b": 0.25}
    assert tempered({"a": 16.0, "b": 1.0}, 1e9)["b"] == pytest.approx(1.0)


def test_worth_of_repeated_tokens_by_hand() -> None:
    assert worth_of(100, 0.5) == 50 and worth_of(100, 1) == 100
    # 4 epochs: 3 repeats; 15.387756 * (1 - exp(-3 / 15.387756)) = 2.7257...
    assert worth_of(100, 4) == pytest.approx(100 * (1 + 15.387756 * (1 - math.exp(-3 / 15.387756))))
    assert worth_of(100, 4) == pytest.approx(372.5, abs=0.2)  # 93% of fresh
    # At R = R* the repeated tokens are worth 1 - 1/e of fresh ones.
    assert (worth_of(1, 16.387756) - 1) / 15.387756 == pytest.approx(1 - 1 / math.e)
    assert worth_of(1, 1e6) == pytest.approx(16.387756)  # and no more than that, ever


# ---- plans ----


def test_a_plan_counts_what_the_run_reads() -> None:
    stages = [MixtureStage({"web": 8.0, "code": 1.5, "maths": 0.5}, 100)]
    plan = plan_mixture(SIZES, stages, 101)
    assert plan.weights == stages[0].weights and not plan.capped
    assert {p.name: (p.rows, p.tokens) for p in plan.sources} == {
        "web": (80, 8080), "code": (15, 1515), "maths": (5, 505),
    }  # fmt: skip
    assert [p.epochs for p in plan.sources] == [0.08, 0.15, 0.5]
    assert plan.tokens == 10_100 and plan.worth == 1.0
    order = DataOrder({name: [size] for name, size in SIZES.items()}, plan.weights, 101, seed=1)
    assert {name: part.rows for name, part in order.consumed(100).items()} == {"web": 80, "code": 15, "maths": 5}


def test_smollm3s_three_stages() -> None:
    """85/12/3, 75/15/10, 63/24/13 over 8.14T, 1.76T and 1.23T tokens (in thousandths of a billionth here)."""
    maps = [(85, 12, 3), (75, 15, 10), (63, 24, 13)]
    lengths = [8140, 1760, 1230]
    stages = [MixtureStage(dict(zip(SIZES, m)), n) for m, n in zip(maps, lengths)]
    plan = plan_mixture(dict.fromkeys(SIZES, 10**9), stages, 4096)
    web = (0.85 * 8140 + 0.75 * 1760 + 0.63 * 1230) / 11_130
    assert shares(plan)["web"] == pytest.approx(web, abs=1e-3)
    assert [plan.stage_share(n, "maths") for n in range(3)] == pytest.approx([0.03, 0.10, 0.13])
    assert [plan.stage_tokens(n) for n in range(3)] == [n * 4096 for n in lengths]
    order = DataOrder({name: [10**9] for name in SIZES}, plan.weights, 4096, seed=0)
    assert {p.name: p.rows for p in plan.sources} == {n: c.rows for n, c in order.consumed(11_130).items()}


def test_a_cap_is_kept_and_the_rest_shared_out_by_weight() -> None:
    # 100 rows of 100 fresh tokens; maths asks for 20 rows = 2 epochs and may have 0.5: 5 rows. The 95 that are left go
    # to web and code 6 : 2.
    stages = [MixtureStage({"web": 0.6, "code": 0.2, "maths": 0.2}, 100)]
    plan = plan_mixture(SIZES, stages, 101, {"maths": 0.5})
    assert plan.capped == ("maths",)
    rows = {p.name: p.rows for p in plan.sources}
    assert rows["maths"] == 5 and rows["web"] == pytest.approx(95 * 0.75, abs=1) and sum(rows.values()) == 100
    maths = plan.sources[2]
    assert (maths.asked_share, maths.share, maths.cap) == (0.2, 0.05, 0.5)
    assert "max_epochs holds back maths" in plan.text() and "5.0% (asked 20.0%)" in plan.text()


def test_what_is_freed_may_push_another_source_to_its_cap() -> None:
    stages = [MixtureStage({"web": 0.1, "code": 0.45, "maths": 0.45}, 100)]
    plan = plan_mixture(SIZES, stages, 101, {"maths": 1, "code": 0.5})  # 10 and 50 rows, web takes 40
    rows = {p.name: p.rows for p in plan.sources}
    assert rows == {"web": 40, "code": 50, "maths": 10}
    assert plan.capped == ("maths",)  # code asked for 45: it is read more than that, not less


def test_a_capped_source_is_read_less_in_every_stage_alike() -> None:
    stages = [MixtureStage({"web": 90, "maths": 10}, 1000), MixtureStage({"web": 70, "maths": 30}, 1000)]
    plan = plan_mixture({"web": 10**6, "maths": 1000}, stages, 101, {"maths": 20.0})  # 200 of 400 rows
    maths = [plan.stage_share(n, "maths") for n in range(2)]
    assert 1000 * sum(maths) == pytest.approx(200, abs=1e-6)
    odds = [m / (1 - m) for m in maths]  # of the nearest mixture: both stages' odds are scaled by one factor
    assert odds[0] / (10 / 90) == pytest.approx(odds[1] / (30 / 70))


def test_one_number_caps_every_source_and_loose_caps_change_nothing() -> None:
    stages = [MixtureStage({"web": 1.0, "code": 1.0, "maths": 1.0}, 90)]
    assert plan_mixture(SIZES, stages, 101, 4.0).weights is stages[0].weights
    plan = plan_mixture(SIZES, stages, 101, 2.0)
    assert {p.name: p.cap for p in plan.sources} == dict.fromkeys(SIZES, 2.0)
    assert {p.name: p.rows for p in plan.sources}["maths"] == 20


def test_a_run_of_exactly_the_caps_is_possible() -> None:
    stages = [MixtureStage({"web": 1.0, "code": 9.0, "maths": 5.0}, 1110)]
    plan = plan_mixture(SIZES, stages, 101, 1.0)
    assert [round(p.epochs, 3) for p in plan.sources] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("stages", "caps", "words"),
    [
        ([MixtureStage({"web": 1, "code": 1}, 3000)], 2.0,
         r"the run reads 303k tokens, and max_epochs leaves 222k \(web 2 x 100k; code 2 x 10k\)"),
        ([MixtureStage({"web": 1}, 100), MixtureStage({"maths": 1, "code": 1}, 500)], {"maths": 3, "code": 1},
         r"mixture stage 2 reads 50.5k tokens, and max_epochs leaves 13.1k \(code 1 x 10k; maths 3 x 1k\)"),
        ([MixtureStage({"web": 1}, 100)], {"wbe": 3}, "max_epochs names wbe, which the mixture does not read"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_figures(stages: list[MixtureStage], caps: dict | float, words: str) -> None:
    names = {name for stage in stages for name in stage.weights}
    with pytest.raises(DataError, match=words) as caught:
        plan_mixture({name: size for name, size in SIZES.items() if name in names}, stages, 101, caps)
    assert caught.value.hint


def test_two_stages_that_fit_alone_but_not_together_are_refused() -> None:
    stages = [MixtureStage({"maths": 1}, 20), MixtureStage({"web": 1}, 50), MixtureStage({"maths": 1}, 20)]
    with pytest.raises(DataError, match=r"mixture stages 1 and 3 read 4\.04k tokens"):
        plan_mixture({"web": 100_000, "maths": 1000}, stages, 101, {"maths": 3})


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_caps_hold_whatever_the_mixture(data: st.DataObject) -> None:
    names = ["a", "b", "c", "d"][: data.draw(st.integers(2, 4))]
    sizes = {name: data.draw(st.integers(200, 20_000)) for name in names}
    stages = [
        MixtureStage({name: data.draw(st.floats(0.01, 10)) for name in names}, data.draw(st.integers(1, 300)))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    caps = {name: data.draw(st.floats(0.2, 6)) for name in names[1:]}  # the first is free, so it is always possible
    plan = plan_mixture(sizes, stages, 21, caps)
    for part in plan.sources:
        if part.cap is not None:
            assert part.rows * 20 <= part.cap * part.unique_tokens + 20 * len(stages) * len(names)
    rows = sum(stage.rows or 0 for stage in stages)
    assert sum(part.rows for part in plan.sources) == rows
    assert [stage.rows for stage in plan.stages] == [stage.rows for stage in stages]
    order = DataOrder({name: [size] for name, size in sizes.items()}, plan.weights, 21, seed=0)
    assert {p.name: p.rows for p in plan.sources} == {n: c.rows for n, c in order.consumed(rows).items()}


def test_the_capped_mixture_is_the_nearest_one() -> None:
    """Against a general solver: least Kullback-Leibler divergence from what was asked, under the same bounds."""
    optimize = pytest.importorskip("scipy.optimize")
    np = pytest.importorskip("numpy")
    asked = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    rows = np.array([600.0, 400.0])
    want = asked * rows[:, None]
    room = np.array([1e9, 250.0, 150.0])
    plan = plan_mixture(
        {"web": 10**9, "code": 2500, "maths": 1500},
        [MixtureStage(dict(zip(SIZES, part)), int(n)) for part, n in zip(asked, rows)],
        11,
        {"code": 1.0, "maths": 1.0},
    )
    found = optimize.minimize(
        lambda x: float(np.sum(x * np.log(x / want.ravel()))),
        np.full(6, 100.0),
        bounds=[(1e-3, None)] * 6,
        constraints=[
            {"type": "eq", "fun": lambda x: x.reshape(2, 3).sum(1) - rows},
            {"type": "ineq", "fun": lambda x: room - x.reshape(2, 3).sum(0)},
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    planned = np.array([[plan.stage_share(n, name) * rows[n] for name in SIZES] for n in range(2)])
    assert planned == pytest.approx(found.x.reshape(2, 3), rel=2e-3)


# ---- in words ----


def test_the_plan_in_words() -> None:
    stages = [MixtureStage({"web": 0.9, "maths": 0.1}, 900), MixtureStage({"web": 0.5, "maths": 0.5}, 100)]
    text = plan_mixture({"web": 100_000, "maths": 1_000}, stages, 101).text()
    lines = text.splitlines()
    assert lines[1].split() == [
        "source",
        "tokens",
        "share",
        "stage",
        "1",
        "stage",
        "2",
        "epochs",
        "worth",
        "as",
        "fresh",
    ]
    # maths: 13 repeats, 1 + 15.387756 * (1 - exp(-13 / 15.387756)) = 9.776 of 14.
    assert lines[3].split() == ["maths", "14.1k", "14.0%", "10.0%", "50.0%", "14.00", "70%"]
    assert lines[4].split() == ["all", "101k", "90.9k", "10.1k", "96%"]
    assert lines[5].startswith(f"Read more than about {FREE_EPOCHS:g} times") and "maths 14.0 times" in lines[5]
    assert len(plan_mixture({"web": 100_000}, [MixtureStage({"web": 1}, 5)], 101).text().splitlines()) == 3
    assert columns([["a", "b"], ["long", "1.25"]]) == ["a        b", "long  1.25"]
