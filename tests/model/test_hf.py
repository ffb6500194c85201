"""Model folders in both directions: the logits of our folder in transformers, and of theirs in ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from parity import ARCHITECTURES, jiggle, largest_differences, random_config, random_model
from safetensors.torch import load_file, save_file

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

TOLERANCE = 1e-4
SMALL = ModelConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_our_folder_loads_in_transformers(architecture: str, seed: int, tmp_path: Path) -> None:
    config = random_config(architecture, seed)
    model = random_model(config, seed)
    hf.save(model, tmp_path, architecture=architecture)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.model_type == architecture
    plain, packed = largest_differences(model, theirs)
    assert plain < TOLERANCE and packed < TOLERANCE, config
    again = hf.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.config.num_parameters() == config.num_parameters()


@pytest.mark.parametrize("seed", range(10, 13))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_their_folder_loads_in_ours(architecture: str, seed: int, tmp_path: Path) -> None:
    shape = hf.to_hf_config(random_config(architecture, seed), architecture)
    their_config = transformers.AutoConfig.for_model(**shape)
    torch.manual_seed(seed)
    theirs = transformers.AutoModelForCausalLM.from_config(their_config).eval()
    jiggle(theirs, seed)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB" if seed == 10 else "1GB")
    if seed == 10:
        assert (tmp_path / "model.safetensors.index.json").exists()
    plain, packed = largest_differences(hf.load(tmp_path), theirs)
    assert plain < TOLERANCE and packed < TOLERANCE, shape


def test_default_configurations_of_transformers_read_as_they_are(tmp_path: Path) -> None:
    small = SMALL.model_dump(include={"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"})
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    for architecture in ARCHITECTURES:
        theirs = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(
                architecture, **small, **tokens, num_attention_heads=4, num_key_value_heads=2, head_dim=8
            )
        )
        theirs.save_pretrained(tmp_path / architecture)
        assert max(largest_differences(hf.load(tmp_path / architecture), theirs)) < TOLERANCE, architecture


def test_token_ids_and_dtype(tmp_path: Path) -> None:
    model = Decoder(SMALL)
    hf.save(model, tmp_path, eos_token_id=[3, 5], pad_token_id=7, dtype=torch.bfloat16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    assert theirs.generation_config.eos_token_id == [3, 5]
    assert (theirs.config.bos_token_id, theirs.config.pad_token_id) == (None, 7)
    assert hf.load(tmp_path).embed_tokens.weight.dtype == torch.float32
    assert hf.load(tmp_path, dtype=None).embed_tokens.weight.dtype == torch.bfloat16


def test_a_tied_head_is_stored_once_and_loads_trainable(tmp_path: Path) -> None:
    hf.save(Decoder(SMALL), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    model = hf.load(tmp_path)
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_saving_over_a_loaded_model_does_not_change_it(tmp_path: Path) -> None:
    one = Decoder(SMALL)
    hf.save(one, tmp_path)
    loaded = hf.load(tmp_path)
    other = Decoder(SMALL)
    other.reset_parameters(5)
    hf.save(other, tmp_path)
    assert torch.equal(loaded.embed_tokens.weight, one.embed_tokens.weight)
    assert torch.equal(hf.load(tmp_path).embed_tokens.weight, other.embed_tokens.weight)


def _edit(folder: Path, remove: str | None = None, **add: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(remove or "", None)
    save_file({**tensors, **add}, file)


@pytest.mark.parametrize(
    ("remove", "add", "says"),
    [
        ("model.norm.weight", {}, "model.norm.weight"),
        (None, {"model.extra": torch.zeros(1)}, "model.extra"),
        (None, {"model.norm.weight": torch.zeros(3)}, r"model.norm.weight is \[3\]"),
        (None, {"lm_head.weight": torch.zeros(40, 16)}, "tie_word_embeddings"),
    ],
)
def test_tensors_that_do_not_fit(remove: str | None, add: dict, says: str, tmp_path: Path) -> None:
    hf.save(Decoder(SMALL), tmp_path)
    _edit(tmp_path, remove, **add)
    with pytest.raises(ModelError, match=says):
        hf.load(tmp_path)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": \n nonsense}')
    with pytest.raises(ModelError, match=r"config.json:2"):
        hf.load(tmp_path)
    hf.save(Decoder(SMALL), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        hf.load(tmp_path)
    file.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        hf.load(tmp_path)
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a file of this folder"):
        hf.load(tmp_path)
