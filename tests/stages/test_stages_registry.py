"""Every kind of stage can be imported and keeps the interface; the shipped recipes name stages by their kinds."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from luopan.errors import RecipeError
from luopan.recipe import specs
from luopan.recipe.load import load_recipe, shipped_recipes
from luopan.stages.registry import STAGES, stage_class


@pytest.mark.parametrize("kind", list(STAGES))
def test_a_stage_has_all_that_the_pipeline_asks_for(kind: str) -> None:
    stage = stage_class(kind)
    assert stage.kind == kind
    assert isinstance(stage.version, int) and stage.version >= 1
    assert stage.payload and all(isinstance(item, str) and not item.startswith("/") for item in stage.payload)
    assert list(inspect.signature(stage.fingerprint).parameters) == ["spec"]
    assert list(inspect.signature(stage.run).parameters) == ["spec", "inputs", "out"]


def test_the_registry_and_the_recipe_know_the_same_kinds() -> None:
    union = get_args(specs.StageSpec)[0]
    kinds = {get_args(spec.model_fields["kind"].annotation)[0] for spec in get_args(union)}
    assert kinds == set(STAGES)
    assert set(specs.MODEL_KINDS) < kinds


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        stage_class("distil")
    assert "distil" in str(caught.value) and "sft" in (caught.value.hint or "")


def test_the_shipped_recipes_load_and_hold_every_stage() -> None:
    assert {"quickstart", "smoke"} <= set(shipped_recipes())
    beside = {
        "quickstart": {
            "mixture_ablation",
            "import",
            "reward",
            "ppo",
            "online_dpo",
            "rejection",
            "distill",
            "synthesize",
            "merge",
        },
        "smoke": {"mixture_ablation", "import", "synthesize"},  # no model of theirs is a teacher
    }
    for name, apart in beside.items():
        stages = load_recipe(name).recipe.stages
        on_the_way = [kind for kind in STAGES if kind not in apart]
        assert list(stages) == [spec.kind for spec in stages.values()] == on_the_way
