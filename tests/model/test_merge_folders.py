"""Folders as they come: saved by others, in pieces, with other tokenizers; adapters against PEFT's own merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from luopan.errors import ModelError
from luopan.model import hf, merge_files
from luopan.model.adapter_config import AdapterConfig
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import attach, lora_layers
from luopan.model.merge import MergePlan, merge_tensors
from luopan.model.merge_files import merge_folders
from luopan.model.peft_files import save_adapter

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def folder(path: Path, seed: int, **shape: Any) -> Path:
    model = Decoder(ModelConfig(**{**SHAPE, **shape}))
    model.reset_parameters(seed)
    hf.save(model, path, eos_token_id=1)
    return path


def weights(path: Path) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in hf.load(path).parameters()]


def test_what_transformers_wrote_merges_with_what_we_wrote(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(other)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")  # other keys, several files
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    merge_folders([one, tmp_path / "theirs"], tmp_path / "out", MergePlan(weights=(0.9, 0.1)))
    for a, b, c in zip(weights(one), weights(other), weights(tmp_path / "out"), strict=True):
        assert torch.allclose(0.9 * a + 0.1 * b, c, atol=1e-7)


def test_only_what_a_model_computes_with_has_to_agree(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", 1)
    other = folder(tmp_path / "other", 2, initializer_range=0.03, max_position_embeddings=4096)
    said: list[str] = []
    merge_folders([one, other], tmp_path / "out", MergePlan(), said=said.append)
    assert len(said) == 1 and "max_position_embeddings is 4096; 2048" in said[0]
    assert hf.read_config(tmp_path / "out").max_position_embeddings == 2048
    with pytest.raises(ModelError, match="tie_word_embeddings is False"):
        merge_folders([one, folder(tmp_path / "untied", 3, tie_word_embeddings=False)], tmp_path / "x", MergePlan())


def test_a_tied_head_that_is_stored_twice_is_no_obstacle(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    tensors = load_file(other / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, other / "model.safetensors")
    merge_folders([one, other], tmp_path / "out", MergePlan())
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_a_large_result_comes_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    merge_folders([one, other], tmp_path / "whole", MergePlan())
    monkeypatch.setattr(merge_files, "SHARD_BYTES", 5000)
    seen: list[tuple[int, int]] = []
    merge_folders([one, other], tmp_path / "parts", MergePlan(), done=lambda n, of: seen.append((n, of)))
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2 and seen[-1][0] == seen[-1][1] == len(seen)
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / "whole"), weights(tmp_path / "parts"), strict=True))
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts")


def vocabulary(path: Path, merges: list[Any], added: dict[int, str], **words: int) -> Path:
    tokens = [{"id": number, "content": text} for number, text in added.items()]
    (path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": words, "merges": merges}, "added_tokens": tokens})
    )
    return path


def test_tokenizers_are_compared_by_what_they_mean(tmp_path: Path) -> None:
    one = vocabulary(folder(tmp_path / "one", 1), ["a b"], {9: "<stop>"}, a=0, b=1)
    same = vocabulary(folder(tmp_path / "same", 2), [["a", "b"]], {9: "<stop>"}, b=1, a=0)  # the newer form
    merge_folders([one, same], tmp_path / "out", MergePlan())
    swapped = vocabulary(folder(tmp_path / "swapped", 2), ["a b"], {9: "<stop>"}, a=1, b=0)
    with pytest.raises(ModelError, match=r"its tokenizer is not that of .*one \('a' is number 1 here and 0 there\)"):
        merge_folders([one, swapped], tmp_path / "x", MergePlan())
    cut = vocabulary(folder(tmp_path / "cut", 2), ["b a"], {9: "<stop>"}, a=0, b=1)
    with pytest.raises(ModelError, match="merge 0 differs"):
        merge_folders([one, cut], tmp_path / "x", MergePlan())
    renamed = vocabulary(folder(tmp_path / "renamed", 2), ["a b"], {9: "<unused>"}, a=0, b=1)
    with pytest.raises(ModelError, match=r"token 9 is '<unused>', in .*one it is '<stop>'"):
        merge_folders([one, renamed], tmp_path / "x", MergePlan())
    said: list[str] = []  # a base that had no use for the token yet
    merge_folders([one, same], tmp_path / "arithmetic", MergePlan("task_arithmetic"), renamed, said=said.append)
    assert len(said) == 1 and "token 9" in said[0]
    merge_folders([one, folder(tmp_path / "none", 4)], tmp_path / "unknown", MergePlan(), said=said.append)
    assert "were not compared" in said[-1]


def test_only_model_and_tokenizer_come_along(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    for path, text in ((one, "one"), (other, "other")):
        (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    (one / "luopan_lineage.json").write_text("[]")  # that of the first, not of what is made of it
    said: list[str] = []
    merge_folders([one, other], tmp_path / "out", MergePlan(), said=said.append, names=["a", "b"])
    assert "another chat template" in said[0]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "config.json", "generation_config.json", "merge.json", "model.safetensors", "tokenizer_config.json",
    ]  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "out" / "merge.json").read_text()  # equal runs, equal bytes


def test_what_would_have_no_effect_or_no_result_is_refused(tmp_path: Path) -> None:
    one, other, base = (folder(tmp_path / name, seed) for seed, name in enumerate(("one", "other", "base")))
    for plan, of in ((MergePlan(normalize=False), None), (MergePlan("ties", normalize=False), base)):
        with pytest.raises(ModelError, match="normalize: false has no effect"):
            merge_folders([one, other], tmp_path / "x", plan, of)
    large = torch.tensor([6e4], dtype=torch.float16)
    with pytest.raises(ModelError, match=r"w: the sum is too large for torch\.float16"):
        merge_tensors("w", [large, large], MergePlan(weights=(1.0, 1.0), normalize=False))
    with pytest.raises(ModelError, match="w of the base holds"):
        merge_tensors("w", [large] * 2, MergePlan("ties"), torch.tensor([float("inf")]))
    with pytest.raises(ModelError, match=r"w holds torch\.int64"):
        merge_tensors("w", [torch.tensor([1]), torch.tensor([2])], MergePlan())


# ---- adapters ----


def adapter(path: Path, base: Path, seed: int, **config: Any) -> Path:
    model = hf.load(base)
    settings = AdapterConfig(r=2 + seed, lora_alpha=5, **config)
    attach(model, settings, seed=seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(generator=torch.Generator().manual_seed(seed))
    save_adapter(model, path, "base", settings)
    return path


def changes(base: Path, path: Path) -> dict[str, torch.Tensor]:
    """What PEFT makes of an adapter: merged weights less those of the base."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    found = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), path)
    state = found.merge_and_unload().state_dict()
    return {name: state[name] - plain[name] for name in plain if name.endswith("proj.weight")}


def test_merged_adapters_are_those_of_peft(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", 0)
    one, other = adapter(tmp_path / "one", base, 1), adapter(tmp_path / "other", base, 2)
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), one, "one")
    model.load_adapter(other, "other")
    model.add_weighted_adapter(["one", "other"], [0.25, 0.75], "both", combination_type="cat")
    model.set_adapter("both")
    merge_folders([one, other], tmp_path / "out", MergePlan(weights=(1, 3)))
    ours = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    ids = torch.arange(20)[None]
    assert (model(ids).logits - ours(ids).logits).abs().max() < 1e-5


def test_arcs_and_sums_of_adapters_are_those_of_their_changes(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", 0)
    one, other = adapter(tmp_path / "one", base, 1), adapter(tmp_path / "other", base, 2)
    mine, theirs = changes(base, one), changes(base, other)
    merge_folders([one, other], tmp_path / "arc", MergePlan("slerp", t=0.3))
    merge_folders([one, other], tmp_path / "sum", MergePlan("task_arithmetic", weights=(1, 2), scale=0.5))
    arcs, sums = changes(base, tmp_path / "arc"), changes(base, tmp_path / "sum")
    for name, change in mine.items():
        assert torch.allclose(
            arcs[name], merge_tensors(name, [change, theirs[name]], MergePlan("slerp", t=0.3)), atol=1e-4
        )
        assert torch.allclose(sums[name], 0.5 * change + theirs[name], atol=1e-4)
    with pytest.raises(ModelError, match="base has no effect with adapters"):
        merge_folders([one, other], tmp_path / "x", MergePlan("task_arithmetic"), base)


def test_adapters_that_cannot_be_merged_are_named(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", 0)
    one, other = (adapter(tmp_path / name, base, seed, modules_to_save=("norm",)) for seed, name in enumerate("ab"))
    merge_folders([one, other], tmp_path / "mean", MergePlan(weights=(1, 3)))
    with pytest.raises(ModelError, match=r"norm.weight is trained in full, and the weights add up to 2"):
        merge_folders([one, other], tmp_path / "x", MergePlan(weights=(1, 1), normalize=False))
    file = other / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file({**tensors, first: tensors[first] * float("nan")}, file)
    with pytest.raises(ModelError, match=r"lora_A.weight holds numbers that are not finite"):
        merge_folders([one, other], tmp_path / "x", MergePlan())
    save_file({**tensors, "base_model.model.model.extra.lora_A.weight": tensors[first].clone()}, file)
    with pytest.raises(ModelError, match=r"extra.lora_A.weight is in one adapter and not in the other"):
        merge_folders([one, other], tmp_path / "x", MergePlan())
    assert not list(tmp_path.glob("*partial")) and not list(tmp_path.glob(".*partial"))
