"""A branch that cannot go on from its base is refused when the recipe is read, not when the base has been trained."""

from __future__ import annotations

from typing import Any

import pytest

from luopan.errors import RecipeError
from luopan.model.config import ModelConfig
from luopan.recipe.load import load_recipe

MODEL = {
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def recipe(base: dict[str, Any] | None = None, branch: dict[str, Any] | None = None) -> dict[str, Any]:
    common = {"kind": "pretrain", "corpus": "curate", "tokenizer": "tok", "sequence_length": 64, "learning_rate": 1e-3}
    return {
        "name": "branches",
        "corpus": {"path": "texts"},
        "stages": {
            "curate": {"kind": "curate"},
            "tok": {"kind": "tokenizer", "corpus": "curate", "vocab_size": 512},
            "stable": {
                **common,
                "model": MODEL,
                "max_steps": 40,
                "save_steps": 10,
                "save_total_limit": 2,
                **(base or {}),
            },
            "decay": {**common, "model": MODEL, "branch": "stable", "max_steps": 60, **(branch or {})},
        },
    }


@pytest.mark.parametrize(
    ("base", "branch"),
    [({}, {}), ({}, {"branch_step": 30, "max_steps": 31}), ({"keep_every_steps": 10}, {"branch_step": 10})],
)
def test_branches_that_fit(base: dict[str, Any], branch: dict[str, Any]) -> None:
    assert load_recipe(recipe(base, branch)).recipe.stages["decay"].branch == "stable"


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        ({"max_steps": 40}, "max_steps is 40, and it begins with step 40"),
        ({"branch_step": 25}, "keeps no checkpoint of that step: it keeps 30, 40"),
        ({"branch_step": 20}, "keep_every_steps"),
        ({"model": {**MODEL, "hidden_size": 32}}, "model is another one"),
        ({"optim": "muon"}, "optim is another one"),
        ({"ema_decay": 0.9}, "ema_decay"),
        ({"gradient_accumulation_steps": 2}, "rows_per_step is another one"),
    ],
)
def test_branches_that_do_not_fit(branch: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(branch=branch))
    assert words in str(caught.value)


def test_lists_in_a_model_are_lists_in_a_recipe() -> None:
    """A recipe is read strictly; pydantic would refuse a list where a tuple is meant."""
    model = {
        **MODEL,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "mlp_only_layers": [0],
    }
    loaded = load_recipe(recipe({"model": model}, {"model": model})).recipe.stages["stable"].model
    assert loaded == ModelConfig.model_validate(model) and loaded.mlp_only_layers == (0,)
