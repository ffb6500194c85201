"""Mixtures in the stages: what is planned is what is read, stages and branches go on, proxies are compared."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from stage_toys import corpus_artifact, tiny_tokenizer, workspace

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.errors import DataError, Interrupted, RecipeError
from luopan.recipe.mixture_specs import MixtureAblationSpec
from luopan.recipe.specs import PretrainSpec
from luopan.report.data import StageReport
from luopan.stages import mixture_ablation as module
from luopan.stages.base import Workspace
from luopan.stages.mixture_ablation import MixtureAblation
from luopan.stages.mixture_plan import open_mixture, plan_table, stages_picture, wanted_stages
from luopan.stages.pretrain import Pretrain
from luopan.stages.text import TextFeed, mixture_weights
from luopan.tokens.mixture_config import MixtureConfig
from luopan.tokens.tokenizer import save_tokenizer
from luopan.train.tracking import read_metrics

STEPS, ROWS, LENGTH = 12, 4, 32
STAGES = [
    {"share": 0.5, "mixture": {"plays": 0.8, "verse": 0.2, "sums": 0}},
    {"mixture": {"plays": 0.4, "verse": 0, "sums": 0.6}},
]


def texts(seed: int, count: int, words: str, length: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(words.split()) for _ in range(draw.randint(5, length))) for _ in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    sources = {
        "plays": texts(1, 60, "the king went to a far old town and said my lord come hither"),
        "verse": texts(2, 40, "rose moon silver night soft wind over water"),
        "sums": texts(3, 30, "1 + 2 = 3 7 - 4 = 3 5 + 5 = 10"),
    }
    return corpus_artifact(tmp_path_factory.mktemp("mixture") / "curate", sources, generated=("sums",), held_out=5)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tiny_tokenizer(), folder / "tokenizer")
    return Artifact(folder)


def settings(**values: Any) -> dict[str, Any]:
    model = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
    }
    plain = {"corpus": "c", "tokenizer": "t", "model": model, "sequence_length": LENGTH, "learning_rate": 1e-2}
    plain |= {"max_steps": STEPS, "per_device_train_batch_size": ROWS, "logging_steps": 2, "save_steps": 4}
    return {**plain, "eval_bytes": 400, **values}


def pretrain(**values: Any) -> PretrainSpec:
    return PretrainSpec(kind="pretrain", **settings(**values))


def run_pretrain(spec: PretrainSpec, corpus: Artifact, tokens: Artifact, out: Workspace, **more: Artifact) -> dict:
    inputs = {"corpus": (corpus,), "tokenizer": (tokens,), **{key: (value,) for key, value in more.items()}}
    metrics = Pretrain.run(spec, inputs, out)
    manifest = build_manifest(
        out.path, kind="pretrain", name=out.path.name, identity="x", inputs={}, spec={}, versions={}, metrics=metrics,
        seconds=1.0,
    )  # fmt: skip
    write_manifest(out.path, manifest)
    return metrics


# ---- what a spec asks for ----


def test_temperature_flattens_what_goes_by_size(corpus: Artifact) -> None:
    by_size = mixture_weights(corpus, None)
    flat = mixture_weights(corpus, None, 1e9)
    assert flat == pytest.approx(dict.fromkeys(by_size, 1.0))
    root = mixture_weights(corpus, {"corpus": 0.5, "sums": 0.5}, 2.0)
    assert root["plays"] / root["verse"] == pytest.approx((by_size["plays"] / by_size["verse"]) ** 0.5)
    assert root["plays"] + root["verse"] == pytest.approx(0.5) and root["sums"] == 0.5
    assert mixture_weights(corpus, None, 1.0) == pytest.approx(
        {name: size / max(by_size.values()) for name, size in by_size.items()}
    )


def test_stages_of_a_spec_in_rows(corpus: Artifact) -> None:
    names, stages = wanted_stages(corpus, MixtureConfig(mixture_stages=STAGES), 48, LENGTH)
    assert names == ["plays", "verse", "sums"]
    assert [(stage.rows, dict(stage.weights)) for stage in stages] == [
        (24, {"plays": 0.8, "verse": 0.2}),
        (24, {"plays": 0.4, "sums": 0.6}),
    ]
    names, _ = wanted_stages(corpus, MixtureConfig(mixture={"plays": 1, "verse": 0, "sums": 1}), 48, LENGTH)
    assert names == ["plays", "sums"]


def test_what_does_not_fit_the_corpus_or_the_run(corpus: Artifact, tmp_path: Path) -> None:
    def wanted(config: MixtureConfig) -> None:
        open_mixture(corpus, tiny_tokenizer(), tmp_path / "shards", config, 48, LENGTH)

    with pytest.raises(RecipeError, match="does not say what to do with sums"):
        wanted(MixtureConfig(mixture_stages=[{"share": 0.5, "mixture": {"plays": 1, "verse": 1}}, STAGES[1]]))
    with pytest.raises(RecipeError, match="500 tokens long in all, and the run reads 1,536"):
        wanted(MixtureConfig(mixture_stages=[{**STAGES[1], "tokens": 250}, {**STAGES[1], "tokens": 250}]))
    with pytest.raises(DataError, match="max_epochs names wbe"):
        wanted(MixtureConfig(max_epochs={"wbe": 1}))
    with pytest.raises(DataError, match=r"the run reads 1\.54k tokens, and max_epochs leaves"):
        wanted(MixtureConfig(max_epochs=0.01))
    with pytest.raises(ValueError, match="500 tokens long in all"):  # a recipe says so when it is read
        pretrain(mixture_stages=[{**STAGES[1], "tokens": 250}, {**STAGES[1], "tokens": 250}])


# ---- training ----


def test_a_run_in_stages_reads_what_was_planned(corpus: Artifact, tokens: Artifact, tmp_path: Path) -> None:
    spec = pretrain(mixture_stages=STAGES, max_epochs={"sums": 0.5})
    out = workspace(tmp_path / "staged")
    run_pretrain(spec, corpus, tokens, out)
    mixture = open_mixture(corpus, tiny_tokenizer(), out.path / "shards", spec, STEPS * ROWS, LENGTH)
    assert mixture.plan.capped == ("sums",)
    assert any(note == mixture.plan.text() for note in out.progress.notes)
    read = [doc.split(":")[0] for step in range(STEPS) for doc in TextFeed(mixture.rows(3), spec).describe(step)]
    assert {name: name in read for name in ("plays", "verse", "sums")} == dict.fromkeys(
        ("plays", "verse", "sums"), True
    )
    order = mixture.rows(3).order
    rows = {part.name: part.rows for part in mixture.plan.sources}
    assert {name: part.rows for name, part in order.consumed(STEPS * ROWS).items()} == rows
    lines = read_metrics(out.path)
    assert "source/sums/loss" not in lines[0] and "source/verse/loss" in lines[0]
    assert "source/sums/loss" in lines[-1] and "source/verse/loss" not in lines[-1]
    report = StageReport.model_validate_json((out.path / "stage_report.json").read_text())
    (table,) = [table for table in report.tables if table.title.startswith("The mixture, planned")]
    assert table == plan_table(mixture.plan) and table.columns[4:6] == ["stage 1", "stage 2"]
    assert [p.title for p in report.pictures if p.type == "mixture"] == ["What was read", "The mixture, stage by stage"]
    (picture,) = stages_picture(mixture.plan)
    assert sum(picture.rows["stage 1"].values()) == pytest.approx(24 * LENGTH)


def test_an_annealing_branch_goes_on_in_the_data_of_the_stable_run(
    corpus: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    """40% of what was read before and 60% of the candidate, over the decay: nothing is read twice for it."""
    before = {"plays": 0.8, "verse": 0.2, "sums": 0}
    stable = pretrain(mixture=before, lr_scheduler_type="constant", save_steps=8, max_steps=8)
    out = workspace(tmp_path / "stable")
    run_pretrain(stable, corpus, tokens, out)
    share = 8 * ROWS * LENGTH
    annealed = {name: 0.4 * weight for name, weight in before.items()} | {"sums": 0.6}
    branch = pretrain(
        branch="stable",
        mixture_stages=[{"tokens": share, "mixture": before}, {"mixture": annealed}],
        decay_steps=4,
    )
    space = workspace(tmp_path / "anneal")
    run_pretrain(branch, corpus, tokens, space, branch=Artifact(out.path))
    old = open_mixture(corpus, tiny_tokenizer(), out.path / "shards", stable, 8 * ROWS, LENGTH).rows(3).order
    new = open_mixture(corpus, tiny_tokenizer(), space.path / "shards", branch, STEPS * ROWS, LENGTH).rows(3).order
    assert [new.row(n).source for n in range(8 * ROWS)] == [old.row(n).source for n in range(8 * ROWS)]
    assert [new.row(n) for n in range(8 * ROWS)] == [old.row(n) for n in range(8 * ROWS)]
    read, last = new.consumed(8 * ROWS), new.consumed(STEPS * ROWS)
    assert read["sums"].rows == 0 and last["sums"].rows == round(0.6 * 4 * ROWS)
    lines = read_metrics(space.path)
    assert [line["step"] for line in lines] == [10, 12] and "source/sums/loss" in lines[0]


# ---- the ablation ----


def ablation(**values: Any) -> MixtureAblationSpec:
    candidates = {
        "sums-only": {"mixture": {"plays": 0, "verse": 0, "sums": 1}},
        "all": {"mixture": {"plays": 1, "verse": 1, "sums": 1}},
        "staged": {"mixture_stages": STAGES},
    }
    return MixtureAblationSpec(
        kind="mixture_ablation", **settings(candidates=candidates, seeds=2, max_steps=10, save_steps=5, **values)
    )


def run_ablation(spec: MixtureAblationSpec, corpus: Artifact, tokens: Artifact, out: Workspace) -> dict:
    return MixtureAblation.run(spec, {"corpus": (corpus,), "tokenizer": (tokens,)}, out)


def runs_of(out: Workspace) -> dict[str, Any]:
    found = json.loads((out.path / "ablation.json").read_text())["candidates"]
    return {name: [one["bits"] for one in part["runs"]] for name, part in found.items()}


def test_an_ablation_and_one_that_was_stopped_twice(
    corpus: Artifact, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ablation()
    whole = workspace(tmp_path / "whole")
    metrics = run_ablation(spec, corpus, tokens, whole)
    assert set(metrics["bits_per_byte"]) == {"sums-only", "all", "staged"}
    found = json.loads((whole.path / "ablation.json").read_text())
    assert found["verdict"]["best"] == metrics["best"] and found["verdict"]["seeds"] == 2
    assert found["candidates"]["sums-only"]["shares"] == {"sums": 1.0}
    bits = runs_of(whole)
    assert set(bits["sums-only"][0]) == {"plays", "verse", "sums"}  # what is left out is measured all the same
    assert bits["sums-only"][0]["plays"] > bits["all"][0]["plays"]
    assert bits["all"][0] != bits["all"][1]  # seeds differ
    assert not list(whole.path.glob("runs/*/checkpoints")) and len(list(whole.path.glob("runs/*/metrics.jsonl"))) == 6
    report = StageReport.model_validate_json((whole.path / "stage_report.json").read_text())
    assert [p.title for p in report.pictures] == [
        "Bits per byte by domain", "What each candidate reads", "Loss while training",
    ]  # fmt: skip
    assert report.tables[0].columns == ["candidate", "mean", "plays", "verse", "sums"]
    assert report.summary == found["verdict"]["text"] and report.summary in whole.progress.notes
    assert len(whole.progress.notes) == len(set(whole.progress.notes))  # six trainings, one table of parameters

    # Killed in the middle of the third training, and again while the fourth is measured.
    stopped = workspace(tmp_path / "stopped")
    real_fit, real_bits, calls = module.fit, module.text_bits, {"fit": 0, "bits": 0}

    def fit(model: Any, feed: TextFeed, *rest: Any, **more: Any) -> Any:
        calls["fit"] += 1
        if calls["fit"] == 3:
            feed = Dying(feed.rows, feed.config)
        return real_fit(model, feed, *rest, **more)

    def text_bits(*rest: Any) -> Any:
        calls["bits"] += 1
        if calls["bits"] == 4:
            raise KeyboardInterrupt
        return real_bits(*rest)

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "text_bits", text_bits)
    with pytest.raises(Gone):
        run_ablation(spec, corpus, tokens, stopped)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(spec, corpus, tokens, stopped)
    run_ablation(spec, corpus, tokens, stopped)
    # Two were whole; the third was gone on with, the fourth was trained and is loaded again, two more.
    assert calls["fit"] == 3 + 2 + 3
    assert runs_of(stopped) == bits


class Gone(BaseException):
    """Stands for a kill."""


class Dying(TextFeed):
    def micro_batches(self, step: int) -> Any:
        if step == 7:
            raise Gone
        return super().micro_batches(step)


def test_an_ablation_heeds_its_deadline(corpus: Artifact, tokens: Artifact, tmp_path: Path) -> None:
    out = workspace(tmp_path / "late")
    with pytest.raises(Interrupted):
        run_ablation(ablation(), corpus, tokens, Workspace(out.path, out.name, out.seed, out.progress, stop_at=0.0))


def test_a_target_decides_what_is_best(corpus: Artifact, tokens: Artifact, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="target names paintings"):
        run_ablation(ablation(target={"paintings": 1}), corpus, tokens, workspace(tmp_path / "a"))
    results = {"bits": {"plays": 2.0, "sums": 4.0}}
    assert module.score(results["bits"], None) == 3.0
    assert module.score(results["bits"], {"plays": 3.0, "sums": 1.0}) == 2.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"candidates": {"a": {}}}, "at least 2"),
        ({"candidates": {"a": {}, "b": {}}}, "candidates a and b are the same"),
        ({"candidates": {"a/b": {}, "b": {"max_epochs": 1}}}, "pattern"),
        ({"candidates": {"a": {}, "b": {"mixture_stages": [{**STAGES[0], "share": 0.9}, {**STAGES[1], "tokens": 9}]}}},
         "candidates.b: mixture_stages are"),
        ({"seeds": 1}, "greater than or equal to 2"),
        ({"target": {"corpus": 1}}, "target gives a weight to sources by their names"),
        ({"target": {"plays": 0}}, "target gives a weight"),
        ({"sequence_length": 64}, "longer than model.max_position_embeddings"),
    ],
)  # fmt: skip
def test_what_an_ablation_refuses(values: dict[str, Any], words: str) -> None:
    candidates = {"a": {"mixture": {"plays": 1}}, "b": {"mixture": {"verse": 1}}}
    with pytest.raises(ValueError, match=words):
        MixtureAblationSpec(kind="mixture_ablation", **settings(**{"candidates": candidates, **values}))
