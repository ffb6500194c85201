"""Scaling laws: the fit against known laws and against scipy, the family that is trained, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from luopan.errors import DataError, RecipeError, TrainingError
from luopan.lab.planning.scaling import BESIROGLU, LossLaw
from luopan.lab.scaling.family import plan_family, run_family, shapes
from luopan.lab.scaling.fit import DELTA, best_of_parabola, fit_law, fit_power
from luopan.lab.scaling.points import Point, points_of, read_points
from luopan.lab.scaling.report import ahead, as_plain, law_text, make_law, write_law
from luopan.model.presets import preset
from luopan.report.data import Figure, StageReport


def trainings(law: LossLaw, count: int, noise: float, seed: int = 0) -> tuple[Any, Any, Any]:
    """Sizes and tokens as in Hoffmann et al.: around the optimum of 1e18 to 1e22 FLOPs."""
    draw = np.random.default_rng(seed)
    flops = np.exp(draw.uniform(np.log(1e18), np.log(1e22), count))
    sizes = np.array([law.optimum(c)[0] for c in flops]) * np.exp(draw.normal(0, 0.8, count))
    tokens = flops / 6 / sizes
    losses = np.array([law.loss(n, d) for n, d in zip(sizes, tokens)]) * np.exp(draw.normal(0, noise, count))
    return sizes, tokens, losses


def test_a_law_without_noise_comes_back() -> None:
    sizes, tokens, losses = trainings(BESIROGLU, 30, 0.0)
    fit = fit_law(sizes, tokens, losses, bootstrap=10)
    for name in ("e", "a", "b", "alpha", "beta"):
        assert getattr(fit.law, name) == pytest.approx(getattr(BESIROGLU, name), rel=1e-5)
    assert fit.exponent == pytest.approx(0.3658 / (0.3478 + 0.3658), rel=1e-5)
    assert fit.error < 1e-8


def test_the_minimum_is_that_of_scipy() -> None:
    """The same Huber loss by BFGS from the law itself: no lower place is found there."""
    sizes, tokens, losses = trainings(BESIROGLU, 40, 0.003, seed=1)
    logs = np.log(sizes), np.log(tokens), np.log(losses)

    def cost(theta: Any) -> float:
        a, b, e, alpha, beta = theta
        whole = logsumexp(np.stack([a - alpha * logs[0], b - beta * logs[1], np.full_like(logs[0], e)]), axis=0)
        return float(huber(DELTA, whole - logs[2]).sum())

    ours = fit_law(sizes, tokens, losses, bootstrap=5).law
    mine = cost([np.log(ours.a), np.log(ours.b), np.log(ours.e), ours.alpha, ours.beta])
    start = [np.log(482.01), np.log(2085.43), np.log(1.8172), 0.3478, 0.3658]
    theirs = minimize(cost, start, method="BFGS", options={"maxiter": 2000})
    assert mine <= theirs.fun * (1 + 1e-4)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(6):
        sizes, tokens, losses = trainings(BESIROGLU, 40, 0.003, seed=seed)
        low, high = fit_law(sizes, tokens, losses, bootstrap=60).interval("exponent")
        inside += low <= 0.3658 / (0.3478 + 0.3658) <= high
    assert inside >= 3  # of six at 80%: two or fewer have a probability below 0.02


def test_outliers_move_little() -> None:
    sizes, tokens, losses = trainings(BESIROGLU, 40, 0.001, seed=2)
    losses[3] *= 1.5
    fit = fit_law(sizes, tokens, losses, bootstrap=5)
    assert fit.law.loss(1e9, 2e10) == pytest.approx(BESIROGLU.loss(1e9, 2e10), rel=0.01)


@pytest.mark.parametrize(
    ("sizes", "tokens", "losses", "message"),
    [
        ([1e6] * 5, [1e7] * 5, [3.0] * 5, "too few"),
        ([1e6] * 8, list(np.geomspace(1e6, 1e8, 8)), [3.0] * 8, "nearly the same parameters"),
        (list(np.geomspace(1e6, 1e8, 8)), [1e7] * 8, [3.0] * 8, "nearly the same tokens"),
        (list(np.geomspace(1e6, 1e8, 8)), list(np.geomspace(1e6, 1e8, 8)), [3.0] * 7 + [float("nan")], "loss must be"),
    ],
)
def test_points_that_say_nothing_are_refused(sizes: Any, tokens: Any, losses: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_law(sizes, tokens, losses)


def test_power_laws_and_parabolas_by_hand() -> None:
    assert fit_power([1, 10, 100], [2, 20, 200]) == (pytest.approx(2), pytest.approx(1))
    assert best_of_parabola([0.1, 1, 10], [2.0, 1.0, 2.0]) == pytest.approx(1)
    assert best_of_parabola([0.1, 1, 10], [3.0, 2.0, 1.0]) == pytest.approx(10)  # still falling: the edge
    assert best_of_parabola([0.1, 1], [1.0, 2.0]) == pytest.approx(0.1)


RECIPE: dict[str, Any] = {
    "name": "toy",
    "corpus": {"path": "nowhere"},
    "stages": {
        "curate": {"kind": "curate"},
        "tok": {"kind": "tokenizer", "corpus": "curate", "vocab_size": 512},
        "base": {
            "kind": "pretrain", "corpus": "curate", "tokenizer": "tok",
            "model": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
                      "num_attention_heads": 4, "num_key_value_heads": 2},
            "sequence_length": 32, "per_device_train_batch_size": 4, "learning_rate": 0.004, "max_steps": 20,
            "warmup_steps": 5,
        },
        "tuned": {"kind": "sft", "model": "base", "data": [{"skill": "identity", "examples": 20}], "max_length": 64,
                  "learning_rate": 0.001, "max_steps": 5},
    },
}  # fmt: skip
TRUTH = LossLaw(1.2, 30.0, 60.0, 0.4, 0.3, "made up")


class Fake:
    kind, version, payload = "fake", 1, ("out",)

    @staticmethod
    def run(spec: Any, inputs: Any, out: Any) -> dict[str, Any]:
        (out.path / "out").mkdir(exist_ok=True)
        figures = []
        if spec.kind == "pretrain":
            size, tokens = spec.model.num_parameters(), spec.max_steps * spec.rows_per_step * spec.sequence_length
            if spec.learning_rate > 0.1:
                raise TrainingError("20 bad steps in a row")
            # The best rate is 0.004 for every size; a factor off costs the square of its logarithm.
            value = TRUTH.loss(size, tokens) + 0.1 * float(np.log(spec.learning_rate / 0.004)) ** 2
            figures = [Figure(name="bits per byte", after=value, unit="bits/byte", higher_is_better=False),
                       Figure(name="accuracy", after=0.5)]  # fmt: skip
        report = StageReport(kind="x", name=out.name, figures=figures)
        (out.path / "stage_report.json").write_text(report.model_dump_json())
        (out.path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        return {"before": {}, "after": {}}


def test_shapes_of_a_family_keep_their_proportions() -> None:
    base = preset("nano-5m")
    for size, model in zip((1.5e6, 6e6, 3e7), shapes(base, (1.5e6, 6e6, 3e7)), strict=True):
        assert model.num_parameters() == pytest.approx(size, rel=0.35)
        assert model.head_size == base.head_size
        assert model.num_attention_heads == 2 * model.kv_heads
        assert model.intermediate_size / model.hidden_size == pytest.approx(688 / 256, rel=0.05)
    with pytest.raises(RecipeError, match="same shape"):
        shapes(base, (6e6, 6.01e6))


def test_the_family_is_planned() -> None:
    family = plan_family(RECIPE, (60e3, 250e3), (2, 10), factors=(1, 0.5))
    assert len(family.members) == 8
    stages = family.recipe.recipe.stages
    assert {"curate", "tok"} < set(stages) and "base" not in stages and "tuned" not in stages
    for member in family.members:
        spec: Any = stages[member.stage]
        assert spec.model.num_parameters() == member.parameters
        assert member.tokens == spec.max_steps * 4 * 32
        assert member.learning_rate == pytest.approx(
            0.004 * (64 / spec.model.hidden_size) ** 0.5 * member.factor, rel=0.01
        )
        assert spec.warmup_steps is None and spec.warmup_ratio == 0.05


@pytest.mark.parametrize(
    ("sizes", "ratios", "more", "message"),
    [
        ((60e3,), (2, 10), {}, "several sizes"),
        ((60e3, 250e3), (2,), {}, "several sizes"),
        ((60e3, 250e3), (2, -1), {}, "above 0"),
        ((60e3, 250e3), (2, 10), {"stage": "tuned"}, 'no pretrain stage "tuned"'),
        ((60e3, 250e3), (0.0001, 0.0002), {}, "come to the same"),
    ],
)
def test_families_that_cannot_be(sizes: Any, ratios: Any, more: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_family(RECIPE, sizes, ratios, **more)


def test_a_family_is_trained_fitted_and_predicts(tmp_path: Path) -> None:
    family = plan_family(RECIPE, (60e3, 250e3, 1e6), (2, 10, 40), factors=(0.5, 1, 2, 100))
    results = run_family(family, runs=tmp_path, stage_class=lambda kind: Fake)
    assert sum(bool(result.trouble) for _, result in results) == 9  # the factor of 100 diverges
    points, figure = points_of(family, results, None)
    assert figure == "bits per byte" and len(points) == 9
    assert all(point.learning_rate == pytest.approx(0.004, rel=0.2) for point in points)
    law = make_law(points, "bits/byte", bootstrap=20)
    assert law.predicted is not None and law.held_out is not None
    assert law.predicted[0] == pytest.approx(law.held_out.loss, rel=0.01)
    assert law.rate is not None and abs(law.rate[1]) < 0.1
    text = law_text(law)
    assert "held out: " in text and "best learning rate" in text
    page = write_law(law, tmp_path / "law", "toy")
    kept = json.loads((tmp_path / "law" / "scale.json").read_text(encoding="utf-8"))
    assert kept["held_out"]["predicted"] == pytest.approx(law.predicted[0])
    assert page.stat().st_size > 20_000
    again = read_points(tmp_path / "law" / "points.csv")
    assert [(p.parameters, p.tokens, p.loss) for p in again] == [(p.parameters, p.tokens, p.loss) for p in law.points]
    with pytest.raises(RecipeError, match="no figure 'accuracy' that falls"):
        points_of(family, results, "accuracy")


def test_points_from_elsewhere(tmp_path: Path) -> None:
    """Published points of Chinchilla are told as model size, FLOPs and loss."""
    sizes, tokens, losses = trainings(BESIROGLU, 30, 0.0)
    file = tmp_path / "points.csv"
    rows = [f"{n},{6 * n * d},{loss}" for n, d, loss in zip(sizes, tokens, losses)]
    file.write_text("\n".join(["Model Size,Training FLOP,loss", *rows]), encoding="utf-8")
    points = read_points(file)
    assert points[0] == Point(sizes[0], pytest.approx(tokens[0]), pytest.approx(6 * sizes[0] * tokens[0]), losses[0])
    law = make_law(points, "", bootstrap=10)
    assert law.fit.law.alpha == pytest.approx(0.3478, rel=1e-3)
    assert law.factor == pytest.approx(1)
    best = ahead(law)[0]
    assert best["parameters"] == pytest.approx(BESIROGLU.optimum(best["flops"])[0], rel=1e-3)
    json.dumps(as_plain(law))
    for text, message in (
        ("a,b\n1,2\n", "the columns are a, b"),
        ("n,d,loss\n1,x,3\n", "points.csv:2"),
        ("", "no points"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            read_points(file)
        assert message in str(caught.value)
