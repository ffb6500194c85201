"""Sweeps: what is planned, that what comes before is made once, what counts as diverged, what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luopan.cli.main import run_verb
from luopan.errors import RecipeError, TrainingError
from luopan.lab.sweep import Result, Trial, parse_axis, plan_sweep, read_result, run_sweep, split_values, sweep_folder
from luopan.lab.sweep_report import LOSS, mean_and_error, sweep_pictures, sweep_table, write_sweep
from luopan.report.data import Figure, LineChart, StageReport

RECIPE: dict[str, Any] = {
    "name": "toy",
    "seed": 7,
    "corpus": {"path": "nowhere"},
    "stages": {
        "curate": {"kind": "curate"},
        "tok": {"kind": "tokenizer", "corpus": "curate", "vocab_size": 512},
        "base": {
            "kind": "pretrain",
            "corpus": "curate",
            "tokenizer": "tok",
            "model": {
                "vocab_size": 512,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            "sequence_length": 32,
            "learning_rate": 0.001,
            "max_steps": 20,
        },
        "tuned": {
            "kind": "sft",
            "model": "base",
            "data": [{"skill": "identity", "examples": 20}],
            "max_length": 64,
            "learning_rate": 0.001,
            "max_steps": 5,
        },
        "later": {"kind": "eval", "models": ["tuned"]},
    },
}


class Fake:
    """A stage that does nothing but leave a report; `made` counts how often it ran, by name."""

    kind, version, payload = "fake", 1, ("out",)
    made: dict[str, int] = {}  # noqa: RUF012 - the test's own register

    @staticmethod
    def run(spec: Any, inputs: Any, out: Any) -> dict[str, Any]:
        Fake.made[out.name] = Fake.made.get(out.name, 0) + 1
        rate = getattr(spec, "learning_rate", 0.0)
        if out.name.startswith("tuned") and rate > 0.5:
            raise TrainingError("20 bad steps in a row")
        (out.path / "out").mkdir(exist_ok=True)
        report = StageReport(kind="sft", name=out.name, figures=[Figure(name="skill", after=rate * 10, unit="%")])
        (out.path / "stage_report.json").write_text(report.model_dump_json())
        lines = [{"step": step, "loss": 3.0 - step * rate} for step in range(10)]
        (out.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"before": {}, "after": {}}


def test_values_are_cut_at_commas_outside_of_brackets_and_quotes() -> None:
    assert split_values("1e-6,3e-6") == ["1e-6", "3e-6"]
    assert split_values("[q_proj, v_proj],all-linear") == ["[q_proj, v_proj]", "all-linear"]
    assert split_values("{a: 1, b: 2},'x,y'") == ["{a: 1, b: 2}", "'x,y'"]
    assert parse_axis("sft.optim=adamw,muon").values == ("adamw", "muon")
    assert parse_axis("sft.adapter.r=4,8").key == "adapter.r"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tuned.learning_rate=1e-3"], "nothing to sweep"),
        (["tuned.learning_rate=1e-3,1e-3"], "twice"),
        (["tuned.learning_rate=1e-3,0.001"], "twice"),
        (["tuned.learning_rate=1e-3,"], "empty value"),
        (["tuned.learning_rate=1e-3,1e-2", "base.learning_rate=1e-3,1e-2"], "tuned and base"),
        (["gone.learning_rate=1e-3,1e-2"], 'no stage "gone"'),
        (["curate.minhash=true,false"], "trains nothing"),
        (["tuned.learning_rate=1e-3,-1"], "learning_rate"),
        (["tuned.learnin_rate=1e-3,1e-2"], "learnin_rate"),
        (["learning_rate=1,2"], "no axis"),
    ],
)
def test_what_cannot_be_swept_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_sweep(RECIPE, settings)


def test_the_plan_has_a_stage_for_every_setting_and_seed() -> None:
    sweep = plan_sweep(RECIPE, ["tuned.learning_rate=1e-3,1e-2", "tuned.max_steps=5,6,7", "tuned.multi_turn=0.5"], 2)
    assert len(sweep.trials) == 2 * 3 * 2
    stages = sweep.recipe.recipe.stages
    assert list(stages)[:3] == ["curate", "tok", "base"]
    assert "tuned" not in stages and "later" not in stages
    chosen = [stages[trial.name] for trial in sweep.trials]
    assert {spec.multi_turn for spec in chosen} == {0.5}
    assert {(spec.learning_rate, spec.max_steps) for spec in chosen} == {
        (a, b) for a in (1e-3, 1e-2) for b in (5, 6, 7)
    }
    seeds = {trial.seed: stages[trial.name].seed for trial in sweep.trials}
    assert len(seeds) == len(set(seeds.values())) == 2
    assert all(stages[trial.name].seed == seeds[trial.seed] for trial in sweep.trials)  # compared like with like


def test_the_first_seed_is_the_stages_own() -> None:
    from luopan.pipeline.identity import stage_seed

    sweep = plan_sweep(RECIPE, ["tuned.learning_rate=1e-3,1e-2"])
    assert {sweep.recipe.recipe.stages[trial.name].seed for trial in sweep.trials} == {stage_seed(7, "tuned")}


def test_what_comes_before_is_made_once_and_a_second_run_makes_nothing(tmp_path: Path) -> None:
    Fake.made.clear()
    sweep = plan_sweep(RECIPE, ["tuned.learning_rate=1e-3,1e-2"], 2)
    results = run_sweep(sweep, runs=tmp_path, stage_class=lambda kind: Fake)
    assert Fake.made == {"curate": 1, "tok": 1, "base": 1, **{trial.name: 1 for trial in sweep.trials}}
    again = run_sweep(sweep, runs=tmp_path, stage_class=lambda kind: Fake)
    assert sum(Fake.made.values()) == 3 + 4 and again == results
    assert not (tmp_path / "toy" / "recipe.lock.yaml").exists()  # the run's own is not the sweep's
    assert (sweep_folder(sweep, tmp_path) / "recipe.lock.yaml").is_file()
    wider = plan_sweep(RECIPE, ["tuned.learning_rate=1e-3,1e-2,1e-1"], 2)
    run_sweep(wider, runs=tmp_path, stage_class=lambda kind: Fake)
    assert sum(Fake.made.values()) == 3 + 4 + 2  # what another sweep has trained is taken over


def test_a_trial_that_is_given_up_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    sweep = plan_sweep(RECIPE, ["tuned.learning_rate=0.9,1e-3"])
    results = run_sweep(sweep, runs=tmp_path, stage_class=lambda kind: Fake, said=said.append)
    assert [bool(result.trouble) for result in results] == [True, False]
    assert any("given up: 20 bad steps" in line for line in said)
    page = write_sweep(sweep, results, tmp_path).read_text()
    assert "diverged" in page and "20 bad steps" in page
    kept = json.loads((sweep_folder(sweep, tmp_path) / "sweep.json").read_text())
    assert kept["trials"][0]["diverged"] == "20 bad steps in a row" and kept["trials"][1]["diverged"] is None


@pytest.mark.parametrize(
    ("losses", "trouble"),
    [
        ([3.0] * 9 + [2.0], ""),
        ([3.0] + [4.0] * 9, "rose from 3 to 4"),
        ([3.0] * 9 + [None], "not finite"),
        ([None] * 10, "no step"),
        ([3.0, 3.1, 3.2], ""),  # too few lines to tell
    ],
)
def test_what_counts_as_diverged(tmp_path: Path, losses: list[float | None], trouble: str) -> None:
    (tmp_path / "stage_report.json").write_text(StageReport(kind="sft", name="x").model_dump_json())
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": value}) + "\n" for step, value in enumerate(losses))
    )
    result = read_result(Trial("x", (), 0), tmp_path)
    assert (trouble in result.trouble) if trouble else not result.trouble


def result(rate: str, seed: int, skill: float, trouble: str = "") -> Result:
    trial = Trial(f"t{rate}{seed}", (("learning_rate", rate),), seed)
    return Result(trial, {"skill": Figure(name="skill", after=skill, unit="%")}, 1.0, trouble)


def test_the_table_holds_means_and_standard_errors_without_the_diverged() -> None:
    results = [result("1e-3", 0, 0.2), result("1e-3", 1, 0.4), result("1e-2", 0, 0.5), result("1e-2", 1, 0.0, "bad")]
    table = sweep_table(results)
    assert table.columns == ["learning_rate", LOSS, "±", "skill", "±", "seeds", "diverged"]
    first, second = table.rows
    assert first[3] == pytest.approx(0.3) and first[4] == pytest.approx(0.1)  # stdev 0.1414 / sqrt 2
    assert list(second[3:]) == [0.5, None, 1, 1]
    assert mean_and_error([]) == (None, None)


def test_numbers_are_drawn_as_lines_on_a_logarithmic_axis_and_words_as_bars() -> None:
    sweep = plan_sweep(RECIPE, ["tuned.learning_rate=1e-2,1e-4,1e-3"])
    pictures = sweep_pictures(sweep, [result("1e-2", 0, 0.5, "bad"), result("1e-4", 0, 0.2), result("1e-3", 0, 0.3)])
    chart = pictures[1]
    assert isinstance(chart, LineChart) and chart.x_log
    assert [point[0] for point in chart.lines[0].points] == [1e-4, 1e-3, 1e-2]
    assert chart.lines[0].points[2][1] is None and [mark.value for mark in chart.x_marks] == [1e-2]
    words = plan_sweep(RECIPE, ["tuned.optim=adamw,muon"])
    assert {picture.type for picture in sweep_pictures(words, [result("1e-4", 0, 0.2)])} == {"bars"}


def test_the_verb_plans_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_verb(
        "sweep", ["smoke", "sft.learning_rate=1e-3,2e-3", "--seeds", "2", "--plan", "--runs", str(tmp_path)]
    )
    assert code == 0 and capsys.readouterr().out.count("sft--learning_rate") == 4
    assert not list(tmp_path.iterdir())
    assert run_verb("sweep", ["smoke", "sft.learning_rate=1e-3", "--runs", str(tmp_path)]) == 2
    assert "nothing to sweep" in capsys.readouterr().err
