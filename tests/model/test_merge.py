"""Merging by hand-worked numbers, of folders and of adapters; what cannot be merged is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from luopan.cli.main import run_verb
from luopan.errors import ArtifactError, ModelError
from luopan.model import hf
from luopan.model.adapter_config import AdapterConfig
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import attach, lora_layers
from luopan.model.merge import MergePlan, merge_tensors, trim
from luopan.model.merge_files import merge_folders
from luopan.model.peft_files import load_adapter, save_adapter

ONE, OTHER, BASE = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([3.0, -2.0, 5.0]), torch.tensor([1.0, 1.0, 1.0])


def merged(plan: MergePlan, *tensors: torch.Tensor, base: torch.Tensor | None = None) -> list[float]:
    return merge_tensors("w", tensors, plan, base).tolist()


def test_linear_by_hand() -> None:
    assert merged(MergePlan(), ONE, OTHER) == [2.0, 0.0, 1.0]
    assert merged(MergePlan(weights=(3, 1)), ONE, OTHER) == [1.5, 1.0, -1.0]
    assert merged(MergePlan(weights=(0.5, 1), normalize=False), ONE, OTHER) == [3.5, -1.0, 3.5]
    assert merged(MergePlan(weights=(2, -1)), ONE, OTHER) == [-1.0, 6.0, -11.0]


def test_slerp_by_hand() -> None:
    right = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])  # a right angle: o = pi / 2
    half = math.sin(math.pi / 4)
    assert merged(MergePlan("slerp", t=0.5), *right) == pytest.approx([half, 2 * half])
    assert merged(MergePlan("slerp", t=0.0), *right) == pytest.approx([1.0, 0.0])
    assert merged(MergePlan("slerp", t=1.0), *right) == pytest.approx([0.0, 2.0], abs=1e-7)
    assert merged(MergePlan("slerp", t=0.25), ONE, 2 * ONE) == pytest.approx((1.25 * ONE).tolist())  # parallel: a line
    assert merged(MergePlan("slerp", t=0.5), ONE, torch.zeros(3)) == pytest.approx((0.5 * ONE).tolist())


def test_task_arithmetic_by_hand() -> None:
    # changes: [0, 1, -4] and [2, -3, 4]
    assert merged(MergePlan("task_arithmetic"), ONE, OTHER, base=BASE) == [3.0, -1.0, 1.0]
    plan = MergePlan("task_arithmetic", weights=(1, 0.5), scale=2.0)
    assert merged(plan, ONE, OTHER, base=BASE) == [1 + 2 * 1.0, 1 + 2 * -0.5, 1 + 2 * -2.0]


def test_ties_by_hand() -> None:
    base = torch.zeros(4)
    one, other = torch.tensor([4.0, 1.0, -3.0, 0.5]), torch.tensor([-2.0, 3.0, -1.0, 2.0])
    # Half of each: [4, 0, -3, 0] and [-2, 3, 0, 0], of |-2| = |2| the first.
    # Signs by sum: 2 -> +, 3 -> +, -3 -> -. Of those that agree: 4, 3, -3, each alone.
    assert merged(MergePlan("ties", density=0.5), one, other, base=base) == [4.0, 3.0, -3.0, 0.0]
    # All of each: + by 2, + by 4, - by -4, + by 2.5; means of those that agree.
    assert merged(MergePlan("ties", density=1.0), one, other, base=base) == [4.0, 2.0, -2.0, 1.25]
    assert trim(torch.tensor([1.0, -5.0, 3.0, 0.0]), 0.5).tolist() == [0.0, -5.0, 3.0, 0.0]
    assert trim(torch.tensor([1.0, -5.0]), 0.01).tolist() == [0.0, -5.0]  # one at least
    assert trim(torch.ones(10), 0.3).tolist() == [1.0] * 3 + [0.0] * 7  # as many as were asked for, ties or not
    assert int((trim(torch.arange(100.0), 0.29) != 0).sum()) == 29
    # Where opposite changes weigh the same, plus wins; weights go into sign and mean.
    assert merged(MergePlan("ties", density=1.0), torch.ones(1), -torch.ones(1), base=torch.zeros(1)) == [1.0]
    plan = MergePlan("ties", weights=(1, 3), density=1.0, scale=0.5)
    assert merged(plan, torch.tensor([2.0, 2.0]), torch.tensor([-1.0, 6.0]), base=torch.zeros(2)) == [-0.5, 0.5 * 5.0]


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_a_model_with_itself_is_itself_to_the_bit(method: Any) -> None:
    tensor = torch.randn(100) / 3
    assert torch.equal(merge_tensors("w", [tensor, tensor.clone()], MergePlan(method)), tensor)
    half = tensor.bfloat16()
    assert merge_tensors("w", [half, half.clone(), half.clone()], MergePlan()).dtype == torch.bfloat16


def test_numbers_that_are_not_finite_and_other_shapes_are_named() -> None:
    with pytest.raises(ModelError, match="w of model 2 holds"):
        merge_tensors("w", [ONE, torch.tensor([1.0, float("nan"), 0.0])], MergePlan())
    with pytest.raises(ModelError, match=r"w has shapes \(2,\), \(3,\)"):
        merge_tensors("w", [ONE, torch.zeros(2)], MergePlan())


def folder(path: Path, seed: int, **shape: Any) -> Path:
    config = ModelConfig(
        **{
            "vocab_size": 64,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            **shape,
        }
    )
    model = Decoder(config)
    model.reset_parameters(seed)
    hf.save(model, path, eos_token_id=1)
    (path / "tokenizer.json").write_text('{"model": {"vocab": 1}}')
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


def test_folders_make_a_folder_that_says_where_it_came_from(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    (other / "chat_template.jinja").write_text("{{ others }}")
    said: list[str] = []
    merge_folders([one, other], tmp_path / "out", MergePlan(weights=(3, 1)), said=said.append)
    models = [hf.load(path) for path in (one, other, tmp_path / "out")]
    for a, b, c in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(0.75 * a + 0.25 * b, c, atol=1e-7)
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["weights"] == [3, 1] and len(record["models"][0]["sha256"]["model.safetensors"]) == 64
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert len(said) == 1 and "another chat template" in said[0]
    with pytest.raises(ArtifactError, match="exists already"):
        merge_folders([one, other], tmp_path / "out", MergePlan())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_size": 32}, "hidden_size is 32, in .*one it is 16"),
     ({"num_hidden_layers": 3}, "num_hidden_layers is 3"), ({"rope_theta": 5e4}, "rope_theta|rope_parameters")],
)  # fmt: skip
def test_other_architectures_are_refused_by_the_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2, **change)
    with pytest.raises(ModelError, match=message):
        merge_folders([one, other], tmp_path / "out", MergePlan())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    (other / "tokenizer.json").write_text('{"model": {"vocab": 2}}')
    with pytest.raises(ModelError, match="its tokenizer is not that of"):
        merge_folders([one, other], tmp_path / "out", MergePlan())


def test_adapters_merge_to_the_sum_of_their_changes(tmp_path: Path) -> None:
    base = hf.load(folder(tmp_path / "base", 1))
    deltas, configs = [], [AdapterConfig(r=2, lora_alpha=6), AdapterConfig(r=3, use_rslora=True)]
    for number, config in enumerate(configs):
        model = hf.load(tmp_path / "base")
        attach(model, config, seed=number)
        with torch.no_grad():
            for layer in lora_layers(model).values():
                layer.lora_B.normal_(generator=torch.Generator().manual_seed(number))
        deltas.append({name: layer.delta() for name, layer in lora_layers(model).items()})
        save_adapter(model, tmp_path / f"adapter{number}", "base", config)
    merge_folders([tmp_path / "adapter0", tmp_path / "adapter1"], tmp_path / "both", MergePlan(weights=(1, 3)))
    load_adapter(base, tmp_path / "both")
    for name, layer in lora_layers(base).items():
        assert torch.allclose(layer.delta(), 0.25 * deltas[0][name] + 0.75 * deltas[1][name], atol=1e-5)
    with pytest.raises(ModelError, match="ties makes no adapter"):
        merge_folders([tmp_path / "adapter0", tmp_path / "adapter1"], tmp_path / "x", MergePlan("ties"))
    with pytest.raises(ModelError, match="is an adapter, and the others"):
        merge_folders([tmp_path / "adapter0", tmp_path / "base"], tmp_path / "x", MergePlan())


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, base = (str(folder(tmp_path / name, seed)) for seed, name in enumerate(("one", "other", "base")))
    out = str(tmp_path / "out")
    assert run_verb("merge", [out, one, other, "--weights", "1,x"]) == 2
    assert run_verb("merge", [out, one, other, "--density", "0.5"]) == 2
    assert "--density has no effect with method linear" in capsys.readouterr().err
    assert run_verb("merge", [out, one, other, "--method", "ties"]) == 2
    assert "needs a base" in capsys.readouterr().err
    assert run_verb("merge", [out, one]) == 2
    assert run_verb("merge", [out, one, other, "--method", "ties", "--base", base, "--density", "0.3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["density"] == 0.3
