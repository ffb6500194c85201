"""Preflight finds planted mistakes, says what to do, and has nothing to say of a sound recipe."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luopan.errors import DataError
from luopan.lab.checking.check import check_recipe
from luopan.lab.checking.findings import Finding
from luopan.lab.checking.probes import narrowed, probe
from luopan.lab.checking.rehearsal import miniature, rehearse
from luopan.model.presets import preset
from luopan.recipe.load import load_recipe

Plant = Callable[[dict[str, Any], Path], Any]


def sound(place: Path) -> dict[str, Any]:
    """A recipe without a mistake, on files of its own."""
    (place / "texts").mkdir(exist_ok=True)
    for number in range(12):
        (place / "texts" / f"{number}.txt").write_text(f"A text about the number {number}. " * 40, encoding="utf-8")
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} + 1?"},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ]
        }
        for n in range(60)
    ]
    _rows(place / "talks.jsonl", talks)
    pairs = [
        {
            "prompt": f"Say {n}.",
            "chosen": f"{n}!" + " Yes." * (n % 2),
            "rejected": f"No {n}." + " Never." * (n % 3 == 0),
        }
        for n in range(60)
    ]
    _rows(place / "pairs.jsonl", pairs)
    return {
        "name": "planted",
        "seed": 1,
        "corpus": {"path": str(place / "texts"), "licence": "CC0"},
        "stages": {
            "curate": {"kind": "curate", "held_out": {"fraction": 0.1},
                       "skills": [{"skill": "addition", "documents": 50}]},
            "tok": {"kind": "tokenizer", "corpus": "curate", "vocab_size": 384},
            "base": {
                "kind": "pretrain", "corpus": "curate", "tokenizer": "tok",
                "model": {"vocab_size": 384, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "max_position_embeddings": 128},
                "mixture": {"corpus": 0.5, "skills": 0.5}, "sequence_length": 128, "learning_rate": 0.003,
                "max_steps": 1000, "save_steps": 200, "per_device_train_batch_size": 8,
            },
            "longer": {"kind": "midtrain", "model": "base", "corpus": "curate", "sequence_length": 256,
                       "extension": "abf", "rope_theta": 40000.0, "mixture": {"corpus": 1.0}, "learning_rate": 0.001,
                       "max_steps": 20},
            "sft": {"kind": "sft", "model": "longer", "data": [{"path": str(place / "talks.jsonl")}], "max_length": 256,
                    "learning_rate": 0.001, "num_train_epochs": 2.0, "test_conversations": 10},
            "dpo": {"kind": "preference", "model": "sft", "data": [{"path": str(place / "pairs.jsonl")}],
                    "max_length": 128, "learning_rate": 5e-5, "max_steps": 10},
            "grpo": {"kind": "grpo", "model": "dpo", "tasks": [{"skill": "addition"}], "learning_rate": 1e-4,
                     "max_steps": 5, "max_length": 256, "max_completion_length": 48},
            "report": {"kind": "report", "stages": ["curate", "tok", "base", "longer", "sft", "dpo", "grpo"]},
        },
    }  # fmt: skip


def _rows(file: Path, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _set(path: str, value: Any) -> Plant:
    def plant(recipe: dict[str, Any], place: Path) -> None:
        *way, last = path.split(".")
        here: Any = recipe["stages"]
        for key in way:
            here = here[key]
        if value is None:
            here.pop(last, None)
        else:
            here[last] = value

    return plant


def _talks(change: Callable[[list[Any]], list[Any]]) -> Plant:
    def plant(recipe: dict[str, Any], place: Path) -> None:
        file = place / "talks.jsonl"
        _rows(file, change([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]))

    return plant


def _pairs(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Plant:
    def plant(recipe: dict[str, Any], place: Path) -> None:
        file = place / "pairs.jsonl"
        _rows(file, [change(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()])

    return plant


def _append(text: str) -> Plant:
    def plant(recipe: dict[str, Any], place: Path) -> None:
        with (place / "talks.jsonl").open("a", encoding="utf-8") as file:
            file.write(text * 20)

    return plant


# What is planted, the check that must say so, words of what it says, and how grave it is.
PLANTED: dict[str, tuple[Plant, str, str, str]] = {
    "a key with a typo": (_set("sft.lerning_rate", 1e-3), "recipe", "learning_rate", "bad"),
    "a key without effect": (_set("base.lr_gamma", 0.5), "recipe", "lr_gamma", "bad"),
    "a stage that there is not": (_set("sft.model", "bsae"), "recipe", "bsae", "bad"),
    "a circle": (_set("base.tokenizer", "base"), "recipe", "", "bad"),
    "a skill that there is not": (_set("grpo.tasks", [{"skill": "adition"}]), "stage", "addition", "bad"),
    "a rate with a slipped decimal": (_set("base.learning_rate", 0.3), "learning rate", "slip", "bad"),
    "a preference rate as in fine-tuning": (_set("dpo.learning_rate", 8e-4), "rates between", "5 to 20", "bad"),
    "a stage that nothing reads": (_set("report.stages", ["base"]), "unread stage", "grpo", "note"),
    "another vocabulary than the tokenizer's": (_set("tok.vocab_size", 512), "recipe", "512 tokens", "bad"),
    "embeddings that eat the model": (
        lambda r, p: [r["stages"]["tok"].update(vocab_size=4096), r["stages"]["base"]["model"].update(vocab_size=4096)],
        "embeddings", "%", "note"),
    "a shape like a pancake": (_set("base.model.hidden_size", 1024), "shape", "19 to 128", "note"),
    "rows longer than the context": (_set("sft.max_length", 512), "recipe", "256 tokens", "bad"),
    "a longer context without extension": (
        lambda r, p: [r["stages"]["longer"].pop(k) for k in ("extension", "rope_theta")], "context", "abf", "bad"),
    "twenty epochs": (_set("sft.num_train_epochs", 20.0), "epochs", "by heart", "note"),
    "fewer tokens than parameters": (_set("base.max_steps", 20), "tokens", "20 a parameter", "note"),
    "no checkpoint before the end": (_set("base.save_steps", 900), "checkpoints", "half of the run", "bad"),
    "a warm-up as long as the run": (_set("base.warmup_steps", 900), "warm-up", "1 to 10%", "bad"),
    "a batch of one short row": (
        lambda r, p: r["stages"]["base"].update(per_device_train_batch_size=1), "batch", "noise", "note"),
    "fine-tuning that nothing measures": (_set("sft.test_conversations", None), "held out", "nothing is meas", "bad"),
    "rewards without held-out prompts": (_set("grpo.test_cases", 0), "held out", "gamed", "bad"),
    "no held-out text": (_set("curate.held_out", {"fraction": 0.0}), "held out", "no text", "bad"),
    "answers sampled cold": (_set("grpo.temperature", 0.05), "temperature", "0.6 to 1.2", "bad"),
    "groups of two": (_set("grpo.num_generations", 2), "group", "fewer than 4", "note"),
    "answers of four tokens": (_set("grpo.max_completion_length", 4), "answers", "few answers", "note"),
    "text that is not there": (lambda r, p: r["corpus"].update(path=str(p / "nowhere")), "text", "nowhere", "bad"),
    "text without a licence": (lambda r, p: r["corpus"].pop("licence"), "licence", "data card", "note"),
    "conversations that are not there": (
        _set("sft.data", [{"path": "/nowhere/talks.jsonl"}]), "rows", "nowhere", "bad"),
    "lines that are no JSON": (_append("{broken\n"), "rows", "cannot be read", "bad"),
    "columns that mean nothing": (_talks(lambda rows: [{"a": 1} for _ in rows]), "rows", "", "bad"),
    "the same row again and again": (_talks(lambda rows: rows[:5] * 12), "repeated rows", "copies", "bad"),
    "pairs of equal answers": (_pairs(lambda row: {**row, "rejected": row["chosen"]}), "pairs", "the same", "bad"),
    "pairs told apart by length": (
        _pairs(lambda row: {**row, "chosen": row["chosen"] + " And so on." * 5}), "pairs", "length", "note"),
    "a source that is read twice": (
        lambda r, p: r["stages"]["sft"].update(data=r["stages"]["sft"]["data"] * 2), "sources", "2 times", "note"),
    "a model that fits no machine": (
        lambda r, p: r["stages"]["base"].update(per_device_train_batch_size=200_000), "memory", "full", "bad"),
}  # fmt: skip


def findings(recipe: dict[str, Any]) -> list[Finding]:
    return list(check_recipe(recipe, quick=True))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not measured again for every mistake."""
    from luopan.lab.checking import machine
    from luopan.lab.planning.devices import Device

    here = Device("this machine's CPU", 1e11, 16 * 10**9, 0.0, 1e9, 1e9, 1, None, "measured")
    monkeypatch.setattr(machine, "this_device", lambda: here)


def test_a_sound_recipe_has_nothing_to_answer_for(tmp_path: Path) -> None:
    found = findings(sound(tmp_path))
    assert [one.text for one in found if one.status in ("bad", "note") and one.check != "contamination"] == []
    assert {"recipe", "stages", "text", "rows", "memory", "disk"} <= {one.check for one in found}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_found(mistake: str, tmp_path: Path) -> None:
    plant, check, words, status = PLANTED[mistake]
    recipe = sound(tmp_path)
    plant(recipe, tmp_path)
    found = [one for one in findings(recipe) if one.check.startswith(check) and one.status == status]
    assert any(words in one.text for one in found), (mistake, [one.text for one in findings(recipe)])


def test_mistakes_of_the_recipe_are_all_told_at_once(tmp_path: Path) -> None:
    recipe = sound(tmp_path)
    recipe["stages"]["sft"]["lerning_rate"] = 1
    recipe["stages"]["tok"]["vocab_sise"] = 1
    assert [one.status for one in findings(recipe)] == ["bad", "bad"]


def test_a_fresh_model_passes_and_a_planted_one_does_not() -> None:
    shape = preset("nano-1m", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    found = {one.check: one for one in probe("base", shape)}
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(
        ("first loss", "gradients", "accumulation", "packing", "save and load", "learns by heart"), "ok"
    )
    wild = shape.model_copy(update={"initializer_range": 1.0})
    assert next(one for one in probe("base", wild) if one.check == "first loss").status == "bad"


def test_large_shapes_are_probed_in_small() -> None:
    large = preset("smollm3-3b")
    small = narrowed(large)
    assert small.num_hidden_layers == 2 and small.vocab_size == 4096 and small.hidden_size == large.hidden_size
    assert narrowed(preset("nano-1m")) is not None and narrowed(preset("nano-1m")).num_hidden_layers == 4


class Fake:
    kind, version, payload = "fake", 1, ("out",)

    @staticmethod
    def run(spec: Any, inputs: Any, out: Any) -> dict[str, Any]:
        (out.path / "out").mkdir(exist_ok=True)
        if spec.kind == "sft":
            raise DataError("no conversation is left to train on", where="talks.jsonl:3", hint="a larger max_length")
        (out.path / "stage_report.json").write_text('{"kind": "x", "name": "x"}')
        return {"before": {}, "after": {}}


def test_a_rehearsal_names_the_stage_that_fails_and_spares_those_that_need_it(tmp_path: Path) -> None:
    loaded = load_recipe(sound(tmp_path))
    found = {one.stage: one for one in rehearse(loaded, stage_class=lambda kind: Fake)}
    assert {stage for stage, one in found.items() if one.status == "ok"} == {"curate", "tok", "base", "longer"}
    assert "no conversation is left" in found["sft"].detail and "talks.jsonl:3" in found["sft"].detail
    assert found["sft"].advice == "a larger max_length"
    assert {found[stage].status for stage in ("dpo", "grpo", "report")} == {"skipped"}
    assert {one.status for one in rehearse(loaded, seconds=-1, stage_class=lambda kind: Fake)} == {"skipped"}


def test_a_rehearsal_asks_no_teacher() -> None:
    made = {
        "kind": "synthesize",
        "teacher_endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "patience": 0},
        "pipeline": {"kind": "identity", "facts": [{"statement": "I am Lumen."}]},
    }
    (one,) = rehearse(load_recipe({"name": "r", "stages": {"made": made}}))
    assert one.status == "skipped" and "teacher" in one.detail


@pytest.mark.parametrize("name", ["quickstart", "smoke", "rlhf", "sft-hybrid", "smollm2-135m-lora", "identity"])
def test_every_recipe_has_a_miniature(name: str) -> None:
    loaded = load_recipe(name)
    small = load_recipe(miniature(loaded))
    assert list(small.recipe.stages) == list(loaded.recipe.stages)
    for stage, spec in small.recipe.stages.items():
        if hasattr(spec, "max_steps"):
            assert spec.max_steps == 2, stage


def test_the_miniature_leaves_the_recipe_alone(tmp_path: Path) -> None:
    recipe = sound(tmp_path)
    before = copy.deepcopy(recipe)
    miniature(load_recipe(recipe))
    assert recipe == before
