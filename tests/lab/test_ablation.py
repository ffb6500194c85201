"""Ablations: what is one change, what is trained with which seeds, what counts as a difference, what is kept."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from luopan.errors import RecipeError, TrainingError
from luopan.lab.ablation.ablate import adopt, run_ablation, write_outcome
from luopan.lab.ablation.changes import Change, read_change
from luopan.lab.ablation.derive import plan_ablation
from luopan.lab.ablation.verdicts import judge
from luopan.recipe.load import load_recipe
from luopan.report.data import Figure, StageReport

RECIPE: dict[str, Any] = {
    "name": "toy",
    "seed": 7,
    "corpus": {"path": "nowhere"},
    "stages": {
        "curate": {"kind": "curate"},
        "tok": {"kind": "tokenizer", "corpus": "curate", "vocab_size": 512},
        "base": {
            "kind": "pretrain", "corpus": "curate", "tokenizer": "tok",
            "model": {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                      "num_attention_heads": 4, "num_key_value_heads": 4},
            "sequence_length": 32, "learning_rate": 0.001, "max_steps": 20,
        },
        "tuned": {
            "kind": "sft", "model": "base", "data": [{"skill": "identity", "examples": 20}], "max_length": 64,
            "learning_rate": 0.001, "max_steps": 5,
        },
        "later": {"kind": "eval", "models": ["tuned"]},
    },
}  # fmt: skip


class Fake:
    """Measures `weight_decay` off 0.1 with noise of the seed; weight_decay 0.9 diverges."""

    kind, version, payload = "fake", 1, ("out",)
    made: list[str] = []  # noqa: RUF012 - the test's own register

    @staticmethod
    def run(spec: Any, inputs: Any, out: Any) -> dict[str, Any]:
        Fake.made.append(out.name)
        decay = getattr(spec, "weight_decay", 0.1)
        if decay == 0.9:
            raise TrainingError("20 bad steps in a row")
        (out.path / "out").mkdir(exist_ok=True)
        noise = (out.seed % 97) / 1000
        value = 2.0 - decay + noise + (0.001 * (out.seed % 7) if decay == 0.1001 else 0.0)
        figures = [
            Figure(name="bits per byte", after=value, unit="bits/byte", higher_is_better=False),
            Figure(name="skill", after=decay, unit="%", headline=False),
            Figure(name="length", after=3.0, higher_is_better=None),
        ]
        report = StageReport(kind="x", name=out.name, figures=figures, tokens=100, flops=1e6)
        (out.path / "stage_report.json").write_text(report.model_dump_json())
        (out.path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        return {"before": {}, "after": {}}


def changes(*texts: str) -> list[Change]:
    return [read_change(text) for text in texts]


def test_a_change_is_read_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    assert read_change("qk:base.model.qk_norm=true") == Change("qk", ("base.model.qk_norm=true",))
    assert read_change("base.learning_rate=1e-3").name == "learning_rate_1e_3"
    file = tmp_path / "gqa.yaml"
    file.write_text("hypothesis: fewer heads do as well\nset:\n  base.model.num_key_value_heads: 2\n")
    assert read_change(str(file)) == Change("gqa", ("base.model.num_key_value_heads=2",), "fewer heads do as well")
    file.write_text("set: {tuned.data: [{skill: identity, examples: 3}]}\n")
    loaded = load_recipe(RECIPE, read_change(str(file)).settings)
    assert loaded.recipe.stages["tuned"].data[0].examples == 3  # type: ignore[union-attr]
    for text, message in (("x", "no change"), ("base=3", "no change"), ("baseline:base.seed=3", "cannot be")):
        with pytest.raises(RecipeError, match=message):
            read_change(text)
    file.write_text("settings: {}\n")
    with pytest.raises(RecipeError, match="block `set`"):
        read_change(str(file))


def test_every_arm_and_seed_has_its_own_copies_and_the_rest_is_shared() -> None:
    plan = plan_ablation(RECIPE, changes("wd:base.weight_decay=0.2"), stage="tuned", seeds=2)
    assert plan.copied == ("base", "tuned")
    stages = plan.recipe.recipe.stages
    assert {"curate", "tok"} < set(stages) and "later" not in stages and "base" not in stages
    assert [trial.stage for trial in plan.trials] == [
        f"tuned--{arm}--s{seed}" for arm in ("baseline", "wd") for seed in (0, 1)
    ]
    for trial in plan.trials:
        tuned: Any = stages[trial.stage]
        base: Any = stages[tuned.model]
        assert tuned.model == f"base--{trial.arm}--s{trial.seed}"
        assert base.weight_decay == (0.2 if trial.arm == "wd" else 0.1)
    seeds = {(name.split("--")[0], name[-1]): spec.seed for name, spec in stages.items() if "--" in name}  # type: ignore[union-attr]
    assert len(set(seeds.values())) == 4  # stage x seed, the same in both arms


def test_a_change_before_training_copies_what_comes_of_it_once_for_all_seeds() -> None:
    plan = plan_ablation(RECIPE, changes("rare:tok.whitespace=lines"), stage="base", seeds=2)
    stages = plan.recipe.recipe.stages
    assert plan.copied == ("tok", "base")
    assert {name for name in stages if name.startswith("tok")} == {"tok--baseline", "tok--rare"}
    base: Any = stages["base--rare--s1"]
    assert base.tokenizer == "tok--rare"


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (["base.weight_decay=0.1"], {}, "changes anything"),
        (["a:base.weight_decay=0", "a:base.weight_decay=1"], {}, "two changes are called a"),
        (["base.weight_decay=0"], {"seeds": 1}, "told from chance"),
        (["base.weight_decay=0"], {"leave_one_out": True}, "two changes or more"),
        (["tuned.weight_decay=0"], {"stage": "base"}, "no effect on base"),
        (["base.weight_decay=0"], {"stage": "curate"}, "trains nothing|no effect"),
        (["base.weight_decay=0"], {"stage": "gone"}, 'no stage "gone"'),
        (["base.wieght_decay=0"], {}, "wieght_decay"),
        (["base.model.num_key_value_heads=1"], {}, "larger model is better"),
    ],
)
def test_what_cannot_be_compared_is_refused(given: list[str], more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_ablation(RECIPE, changes(*given), **more)


def test_more_than_one_setting_is_no_ablation_unless_it_is_asked_for() -> None:
    two = Change("both", ("base.weight_decay=0", "base.learning_rate=0.01"))
    with pytest.raises(RecipeError, match="2 settings at once"):
        plan_ablation(RECIPE, [two])
    assert len(plan_ablation(RECIPE, [two], several=True).arms) == 2


def test_a_seed_that_is_fixed_is_refused() -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["base"]["seed"] = 3
    with pytest.raises(RecipeError, match="all seeds would be alike"):
        plan_ablation(recipe, changes("base.weight_decay=0"))


def test_the_size_is_kept_by_the_inner_width() -> None:
    plan = plan_ablation(RECIPE, changes("mqa:base.model.num_key_value_heads=1"), match="parameters")
    base, mqa = plan.arms
    spec: Any = plan.recipe.recipe.stages["base--mqa--s0"]
    assert mqa.resized == f"base.model.intermediate_size={spec.model.intermediate_size}"
    assert spec.model.num_key_value_heads == 1 and spec.model.intermediate_size > 64
    assert spec.model.num_parameters() == pytest.approx(base.parameters, rel=0.02)
    loose = plan_ablation(RECIPE, changes("mqa:base.model.num_key_value_heads=1"), match="nothing")
    assert loose.arms[1].resized == "" and loose.arms[1].parameters != base.parameters


def test_leaving_one_out_begins_from_all_changes() -> None:
    plan = plan_ablation(RECIPE, changes("wd:base.weight_decay=0", "lr:base.learning_rate=0.01"), leave_one_out=True)
    found = {arm.name: arm.settings for arm in plan.arms}
    assert found == {
        "baseline": ("base.weight_decay=0", "base.learning_rate=0.01"),
        "without-wd": ("base.learning_rate=0.01",),
        "without-lr": ("base.weight_decay=0",),
    }
    spec: Any = plan.recipe.recipe.stages["base--without-wd--s0"]
    assert (spec.weight_decay, spec.learning_rate) == (0.1, 0.01)


def test_verdicts_by_hand() -> None:
    """Differences -0.10, -0.12, -0.11 to the baseline: mean -0.11, t = 0.11 / (0.01 / sqrt 3) = 19.05, two degrees of
    freedom: p = 1 - t / sqrt(t^2 + 2) = 0.0027 (two-sided), twice that for two arms."""
    values = {"baseline": [1.0, 2.0, 3.0], "good": [0.9, 1.88, 2.89], "same": [1.1, 1.9, 3.02]}
    found, noise = judge(values, "baseline", higher_is_better=False)
    good, same = found
    assert noise == 1.0
    assert (good.outcome, same.outcome) == ("better", "within noise")
    assert good.difference == pytest.approx(-0.11) and good.stderr == pytest.approx(0.01 / math.sqrt(3))
    t = 0.11 / (0.01 / math.sqrt(3))
    assert good.p == pytest.approx(2 * (1 - t / math.sqrt(t * t + 2)), rel=1e-3)
    assert abs(same.difference or 0) < (same.visible or 0)
    assert judge(values, "baseline", higher_is_better=True)[0][0].outcome == "worse"
    assert judge({"baseline": [1, 2], "x": [1, None]}, "baseline", higher_is_better=True)[0][0].outcome == "diverged"
    with pytest.raises(ValueError, match="baseline"):
        judge({"baseline": [1, None], "x": [1, 2]}, "baseline", higher_is_better=True)


def test_a_run_is_judged_kept_gone_on_with_and_adopted(tmp_path: Path) -> None:
    given = changes("good:base.weight_decay=0.5", "bad:base.weight_decay=0.9", "none:base.weight_decay=0.1001")
    plan = plan_ablation(RECIPE, given)
    Fake.made.clear()
    outcome = run_ablation(plan, runs=tmp_path, stage_class=lambda kind: Fake)
    assert len(Fake.made) == 2 + 3 * 4  # curate and tok once, three seeds of four arms
    assert {one.arm: one.outcome for one in outcome.verdicts} == {
        "good": "better", "bad": "diverged", "none": "within noise"
    }  # fmt: skip
    assert outcome.metric.name == "bits per byte"
    assert {one.arm: one.outcome for one in outcome.others["skill"]}["good"] == "better"
    assert "length" not in outcome.others
    assert len(outcome.troubles) == 3 and outcome.tokens == 9 * 100

    ledger = write_outcome(outcome, tmp_path)
    text = ledger.read_text(encoding="utf-8")
    assert "| good |" in text and "better" in text and "diverged" in text
    assert (ledger.parent / f"{plan.identity}.html").stat().st_size > 10_000
    Fake.made.clear()
    again = run_ablation(plan, runs=tmp_path, stage_class=lambda kind: Fake)
    assert {name.split("--")[1] for name in Fake.made} == {"bad"}  # only what is not done is tried again
    write_outcome(again, tmp_path)
    assert len(json.loads((ledger.parent / "ablations.json").read_text(encoding="utf-8"))) == 1

    file = tmp_path / "next.yaml"
    assert adopt(outcome, file) == "good"
    spec: Any = load_recipe(file).recipe.stages["base"]
    assert spec.weight_decay == 0.5
    with pytest.raises(RecipeError, match="there already"):
        adopt(outcome, file)


def test_nothing_is_adopted_and_no_metric_is_made_up(tmp_path: Path) -> None:
    plan = plan_ablation(RECIPE, changes("none:base.weight_decay=0.1001"), seeds=2)
    outcome = run_ablation(plan, runs=tmp_path, stage_class=lambda kind: Fake)
    with pytest.raises(RecipeError, match="nothing to adopt"):
        adopt(outcome, tmp_path / "next.yaml")
    for name in ("length", "accuracy"):
        with pytest.raises(RecipeError, match=f"no figure '{name}'"):
            run_ablation(plan, runs=tmp_path, stage_class=lambda kind: Fake, metric=name)
    assert run_ablation(plan, runs=tmp_path, stage_class=lambda kind: Fake, metric="skill").metric.name == "skill"
