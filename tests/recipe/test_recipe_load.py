"""Recipes that are wrong: every mistake has its line, its path, and what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recipe_models import TrialRecipe

from luopan.errors import RecipeError
from luopan.model.presets import preset
from luopan.recipe.load import find_recipe, load_recipe, shipped_recipes
from luopan.recipe.lock import lock_text
from luopan.recipe.problems import RecipeProblems

GOOD = """\
name: trial
stages:
  a:
    kind: make
    steps: 2e3
    data:
      - {skill: x}
  b:
    kind: use
    source: a
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = written(tmp_path, text)
    with pytest.raises(RecipeProblems) as caught:
        load_recipe(path, overrides, model=TrialRecipe)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_a_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), model=TrialRecipe).recipe
    assert recipe.stages["a"].steps == 2000 and type(recipe.stages["a"].steps) is int
    assert recipe.stages["a"].data[0].skill == "x"
    assert list(recipe.stages) == ["a", "b"]


def change(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (change("steps: 2e3", "stepps: 3"), 'r.yaml:5: stages.a.stepps: unknown key "stepps"; did you mean "steps"?'),
        (change("steps: 2e3", "xyzzy: 3"), 'r.yaml:5: stages.a.xyzzy: unknown key "xyzzy"; known: kind, steps,'),
        (change("kind: make", "kind: maek"), 'r.yaml:4: stages.a.kind: unknown kind "maek"; did you mean "make"?'),
        (change("    kind: make\n", ""), 'r.yaml:3: stages.a: missing key "kind"'),
        (change("source: a", "source: aa"), 'r.yaml:10: stages.b.source: unknown stage "aa"; did you mean "a"?'),
        (change("source: a", "source: b"), "r.yaml:10: stages.b.source: a stage cannot read from itself"),
        (change("    source: a\n", ""), 'r.yaml:8: stages.b.source: missing key "source"'),
        (
            change("source: a", "source: a\n    others: [a]"),
            'stages.b.others.0: stage "a" is of kind make; expected use',
        ),
        (change("steps: 2e3", "steps: fast"), 'r.yaml:5: stages.a.steps: expected a whole number, found text "fast"'),
        (change("steps: 2e3", "steps: 2.5"), "r.yaml:5: stages.a.steps: expected a whole number, found the number 2.5"),
        (change("steps: 2e3", "steps: true"), "r.yaml:5: stages.a.steps: expected a whole number, found true"),
        (change("steps: 2e3", "steps: '3'"), 'r.yaml:5: stages.a.steps: expected a whole number, found text "3"'),
        (change("steps: 2e3", "steps:"), "r.yaml:5: stages.a.steps: expected a whole number, found nothing"),
        (change("steps: 2e3", "steps: 0"), "r.yaml:5: stages.a.steps: expected more than 0, found the number 0"),
        (change("steps: 2e3", "learning_rate: high"), 'learning_rate: expected a number, found text "high"'),
        (change("steps: 2e3", "flag: on"), 'r.yaml:5: stages.a.flag: expected true or false, found text "on"'),
        (change("steps: 2e3", "word: 3"), "r.yaml:5: stages.a.word: expected text, found the number 3"),
        (change("steps: 2e3", "shape: 3"), "r.yaml:5: stages.a.shape: expected a block of keys, found the number 3"),
        (
            change("steps: 2e3", "shape:\n      mode: spares"),
            "r.yaml:6: stages.a.shape.mode: expected one of dense, sparse",
        ),
        (change("steps: 2e3", "shape: {x: 3}"), 'stages.a.shape.x: unknown key "x"; known: hidden_size, mode'),
        (change("steps: 2e3", "weights: {x: heavy}"), "r.yaml:5: stages.a.weights.x: expected a number"),
        (change("- {skill: x}", "- {skil: x}"), 'stages.a.data.0.skil: unknown key "skil"; did you mean "skill"?'),
        (change("- {skill: x}", "- {skill: x, count: y}"), "r.yaml:7: stages.a.data.0.count: expected a whole number"),
        (change("    data:\n      - {skill: x}", "    data: {skill: x}"), "r.yaml:6: stages.a.data: expected a list"),
        (change("name: trial", "nam: trial"), 'r.yaml:1: nam: unknown key "nam"; did you mean "name"?'),
        (change("  b:", "  seed:"), 'stages.seed: a stage cannot be called "seed"'),
        (change("  b:", "  b c:"), 'stages.b c: "b c" cannot name a stage'),
        (
            change("name: trial", "name: trial\nstages: 3").replace("stages:\n  a", "x:\n  a"),
            "expected a block of keys",
        ),
    ],
)
def test_one_mistake_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(mistakes(tmp_path, text))


def test_a_misspelt_required_key_is_one_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, change("source: a", "sourse: a")) == [
        'r.yaml:10: stages.b.sourse: unknown key "sourse"; did you mean "source"?'
    ]


def test_a_rule_over_several_keys_points_at_the_key_it_names(tmp_path: Path) -> None:
    text = change("steps: 2e3", "schedule: cosine\n    steps: 3\n    decay: 0.2")
    assert mistakes(tmp_path, text) == ["r.yaml:7: stages.a: decay has no effect with schedule cosine"]


def test_several_mistakes_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 2e3", "stepps: 3").replace("source: a", "source: c").replace("skill: x", "skill: 3")
    found = mistakes(tmp_path, text, "b.factor=x")
    assert [line.split(": ")[0] for line in found] == ['override "b.factor=x"', "r.yaml:5", "r.yaml:7", "r.yaml:10"]
    with pytest.raises(RecipeError, match=r"^4 mistakes in the recipe:\n"):
        load_recipe(tmp_path / "r.yaml", ["b.factor=x"], model=TrialRecipe)


def test_circles_are_found(tmp_path: Path) -> None:
    text = (
        GOOD + "  c:\n    kind: use\n    source: d\n  d:\n    kind: use\n    source: e\n  e: {kind: use, source: c}\n"
    )
    assert mistakes(tmp_path, text) == ["r.yaml:13: stages.c.source: the stages go round in a circle: c -> d -> e -> c"]


def test_empty_and_shapeless_files(tmp_path: Path) -> None:
    for text, message in (("", "is empty"), ("- 1\n", "expected a block of keys, found a list"), ("x", "found text")):
        with pytest.raises(RecipeError, match=message):
            load_recipe(written(tmp_path, text), model=TrialRecipe)
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match=r"r\.yaml: is not UTF-8 text \(byte 6\)"):
        load_recipe(tmp_path / "r.yaml", model=TrialRecipe)


@pytest.mark.parametrize(
    ("overrides", "check"),
    [
        (["seed=3"], lambda r: r.seed == 3),
        (["a.learning_rate=1e-3"], lambda r: r.stages["a"].learning_rate == 1e-3),
        (["stages.a.learning_rate=1"], lambda r: r.stages["a"].learning_rate == 1.0),
        (["a.shape.hidden_size=64"], lambda r: r.stages["a"].shape.hidden_size == 64),
        (["a.shape={mode: sparse}"], lambda r: r.stages["a"].shape.mode == "sparse"),
        (["a.word=yes"], lambda r: r.stages["a"].word == "yes"),
        (["a.word='3'"], lambda r: r.stages["a"].word == "3"),
        (["a.word=a=b"], lambda r: r.stages["a"].word == "a=b"),
        (["a.data.0.count=5"], lambda r: r.stages["a"].data[0].count == 5),
        (["a.data=[]"], lambda r: r.stages["a"].data == ()),
        (["a.weights.x=2"], lambda r: r.stages["a"].weights == {"x": 2.0}),
        (["a.steps=5", "a.steps=6"], lambda r: r.stages["a"].steps == 6),
        (["a.steps=1e4"], lambda r: r.stages["a"].steps == 10_000),
    ],
)
def test_overrides(tmp_path: Path, overrides: list[str], check: Any) -> None:
    loaded = load_recipe(written(tmp_path, GOOD), overrides, model=TrialRecipe)
    assert check(loaded.recipe)
    assert loaded.overrides == tuple(overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.lerning_rate=1", 'unknown key "lerning_rate" in stages.a; did you mean "learning_rate"?'),
        ("aa.steps=1", 'unknown key or stage "aa"; did you mean "a"?'),
        ("stages.aa.steps=1", 'unknown stage "aa"; did you mean "a"?'),
        ("sed=1", 'unknown key or stage "sed"; did you mean "seed"?'),
        ("a.steps.x=1", '"stages.a.steps" is one value, it has no key "x"'),
        ("a.steps", "an override is written key.path=value"),
        ("=3", "an override is written key.path=value"),
        ("a.data.7.count=1", "stages.a.data has no item 7: it has 1, counted from 0"),
        ("a.steps=x", 'stages.a.steps: expected a whole number, found text "x"'),
        ("b.source=nowhere", 'stages.b.source: unknown stage "nowhere"'),
        ("a.shape.hiden_size=3", 'did you mean "hidden_size"?'),
    ],
)
def test_wrong_overrides_are_named(tmp_path: Path, override: str, expected: str) -> None:
    (line,) = mistakes(tmp_path, GOOD, override)
    assert line.startswith(f'override "{override}": ')
    assert expected in line


def test_an_override_of_a_block_takes_the_place_of_its_lines(tmp_path: Path) -> None:
    text = change("steps: 2e3", "shape:\n      mode: dense")
    (line,) = mistakes(tmp_path, text, "a.shape={mode: spares}")
    assert line.startswith('override "a.shape={mode: spares}": stages.a.shape.mode: expected one of dense, sparse')


def test_finding_a_recipe(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert find_recipe(path) == path
    for name, message in (
        (str(tmp_path / "rr.yaml"), 'no such file; did you mean "r.yaml"'),
        (str(tmp_path), "is a folder"),
        ("quikstart", "there is no shipped recipe"),
    ):
        with pytest.raises(RecipeError, match=message):
            find_recipe(name)


def test_the_lock_file_of_every_shipped_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    for name in shipped_recipes():
        loaded = load_recipe(name)
        for one in (loaded, load_recipe(loaded.recipe)):
            path = tmp_path / f"{name}.lock.yaml"
            path.write_text(lock_text(one, {"python": "3"}), encoding="utf-8")
            assert load_recipe(path).recipe == loaded.recipe


def test_mappings_and_recipe_objects_are_recipes_too(tmp_path: Path) -> None:
    data = {"name": "trial", "stages": {"a": {"kind": "make", "data": ({"skill": "x"},)}}}
    loaded = load_recipe(data, ["a.steps=4"], model=TrialRecipe)
    assert loaded.recipe.stages["a"].steps == 4
    assert "steps" not in data["stages"]["a"], "the caller's mapping is left alone"
    assert load_recipe(loaded.recipe).recipe is loaded.recipe
    with pytest.raises(RecipeError, match="overrides need a recipe file"):
        load_recipe(loaded.recipe, ["a.steps=4"])
    with pytest.raises(RecipeProblems, match=r"recipe: stages\.a\.stepz: unknown key"):
        load_recipe({"name": "t", "stages": {"a": {"kind": "make", "stepz": 3}}}, model=TrialRecipe)


def test_a_preset_can_be_set_from_the_command_line_though_it_is_no_field() -> None:
    recipe = {
        "name": "shapes",
        "corpus": {"path": "texts"},
        "stages": {
            "curate": {"kind": "curate"},
            "tok": {"kind": "tokenizer", "corpus": "curate", "vocab_size": 2048},
            "base": {
                "kind": "pretrain", "corpus": "curate", "tokenizer": "tok", "sequence_length": 64, "max_steps": 2,
                "learning_rate": 1e-3, "model": {"vocab_size": 2048},
            },
        },
    }  # fmt: skip
    loaded = load_recipe(recipe, ["base.model.preset=nano-5m"]).recipe.stages["base"].model
    assert loaded == preset("nano-5m").model_copy(update={"vocab_size": 2048})
    with pytest.raises(RecipeError, match="nano-5m"):
        load_recipe(recipe, ["base.model.preset=nano-6m"])
