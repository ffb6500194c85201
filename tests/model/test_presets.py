"""Named shapes: their computed sizes against the published ones, and `preset:` in a configuration."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from pydantic import ValidationError

from luopan.model.config import ModelConfig
from luopan.model.hf_write import to_hf_config
from luopan.model.presets import PRESETS, preset

OURS = [name for name, entry in PRESETS.items() if entry.published is None]
LARGE = 3_000_000_000


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in OURS])
def test_the_published_size_is_the_computed_one(name: str) -> None:
    published, count = PRESETS[name].published, preset(name).num_parameters()
    assert published is not None and PRESETS[name].source
    if published.endswith("M"):
        assert round(count / 1e6) == int(published[:-1])
    else:
        assert f"{count:,}" == published


@pytest.mark.parametrize("name", [name for name in PRESETS if preset(name).num_experts is None])
def test_transformers_counts_as_many(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**to_hf_config(config))
        )
    assert sum(parameter.numel() for parameter in theirs.parameters()) == config.num_parameters()


def test_the_mixture_by_hand() -> None:
    # minimind's notes count 95,052,288 (95.052 million) for width 512; embedding 6400 * 512, 8 layers of attention
    # 655,360, five experts of 3 * 512 * 1408, a router of 4 * 512 and two norms, and the last norm.
    config = preset("minillm-moe-145m", hidden_size=512, intermediate_size=1408, shared_expert_intermediate_size=1408)
    assert config.num_parameters() == 6400 * 512 + 8 * (655_360 + 5 * 3 * 512 * 1408 + 4 * 512 + 1024) + 512
    assert f"{config.num_parameters() / 1e6:.3f}" == "95.052"
    assert config.num_parameters() - config.num_active_parameters() == 8 * 2 * 3 * 512 * 1408


@pytest.mark.parametrize("name", OURS)
def test_our_own_are_as_large_as_their_names_say(name: str) -> None:
    millions = int(name.removeprefix("nano-").removesuffix("m"))
    assert preset(name).num_parameters() / 1e6 == pytest.approx(millions, rel=0.1)


def test_a_preset_is_expanded_and_changed() -> None:
    config = ModelConfig.model_validate({"preset": "llama3.2-1b", "vocab_size": 4096, "rope_scaling": None})
    assert (config.vocab_size, config.hidden_size, config.rope_scaling) == (4096, 2048, None)
    dumped = config.model_dump()
    assert "preset" not in dumped and ModelConfig.model_validate(dumped) == config
    assert preset("llama3.2-1b").rope_scaling is not None  # the table itself is not changed
    assert ModelConfig(preset="nano-1m") == preset("nano-1m")  # type: ignore[call-arg]


def test_a_preset_that_does_not_exist_or_does_not_fit() -> None:
    with pytest.raises(ValidationError, match="preset 'nano-2m' does not exist; there are smollm2-135m"):
        ModelConfig.model_validate({"preset": "nano-2m"})
    with pytest.raises(ValidationError, match="no_rope_layers and no_rope_layer_interval"):
        ModelConfig.model_validate({"preset": "smollm3-3b", "no_rope_layers": [1] * 36})
    with pytest.raises(ValidationError, match="hiden_size"):
        ModelConfig.model_validate({"preset": "nano-1m", "hiden_size": 3})


def test_the_schema_knows_the_presets() -> None:
    schema = ModelConfig.model_json_schema()
    assert schema["properties"]["preset"]["enum"] == list(PRESETS)
    alone, whole = (choice["required"] for choice in schema["anyOf"])
    assert alone == ["preset"] and "vocab_size" in whole and "required" not in schema


def test_presets_import_no_torch() -> None:
    code = "import sys, luopan.model.presets as p; p.preset('nano-1m'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
