"""Models written as GGUF: read back by the gguf package, by our reader and by transformers, the logits are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from gguf_toys import LLAMA3, MODELS, SHAPE, YARN, save, toy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.gguf_shapes import gguf_architecture
from luopan.model.gguf_tensors import DIRECT_TYPES, gguf_tensors, interleaved, packed, type_of
from luopan.tokens import gguf_quantise
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.gguf import convert_gguf
from luopan.tokens.gguf_quantise import check_type
from luopan.tokens.gguf_write import GgufFacts, gguf_plan, write_gguf
from luopan.tokens.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def lines(texts: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, TokenizerConfig(vocab_size=768, whitespace="lines"))


def written(tmp_path: Path, name: str, tokenizer: PreTrainedTokenizerFast, kind: str = "f32", **more: Any) -> Path:
    folder = save(toy(name, len(tokenizer), **more), tokenizer, tmp_path / "model")
    file = tmp_path / f"{kind}.gguf"
    write_gguf(gguf_plan(folder, kind), file, GgufFacts(name="Toy", license="mit", languages=("en",), tags=("tiny",)))
    return file


def value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


@pytest.mark.parametrize("name", MODELS)
def test_our_reader_finds_the_same_model(tmp_path: Path, lines: PreTrainedTokenizerFast, name: str) -> None:
    file = written(tmp_path, name, lines)
    convert_gguf(file, tmp_path / "again")
    before, after = hf.load(tmp_path / "model").eval(), hf.load(tmp_path / "again").eval()
    ids = torch.arange(60)[None]
    with torch.no_grad():
        assert (before(ids) - after(ids)).abs().max() < 1e-4 * before(ids).abs().max()
    theirs = load_tokenizer(tmp_path / "again")
    assert theirs.chat_template == lines.chat_template and theirs.eos_token == lines.eos_token
    text = "What is 3 + 4?\nx = 12"
    assert theirs(text).input_ids == lines(text).input_ids
    assert after.config.model_dump() == {**before.config.model_dump(), "initializer_range": 0.02}


# transformers takes the heads of a Qwen3 in this format for 128 wide, as published ones are.
@pytest.mark.parametrize(("name", "more"), [
    ("llama", {}), ("qwen2", {}), ("qwen3", {"head_dim": 128}),
])  # fmt: skip
def test_transformers_reads_it(tmp_path: Path, lines: PreTrainedTokenizerFast, name: str, more: dict[str, Any]) -> None:
    file = written(tmp_path, name, lines, **more)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.arange(60)[None]
    with torch.no_grad():
        ours = hf.load(tmp_path / "model").eval()(ids)
        assert torch.allclose(theirs(ids).logits, ours, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file=file.name)
    assert tokenizer.convert_ids_to_tokens([0, 2, 700]) == lines.convert_ids_to_tokens([0, 2, 700])
    messages = [{"role": "user", "content": "Hello!"}]
    rendered = [
        one.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for one in (tokenizer, lines)
    ]
    assert rendered[0] == rendered[1]


@pytest.mark.parametrize("name", MODELS)
def test_the_file_holds_every_weight_under_llama_cpps_name(
    tmp_path: Path, lines: PreTrainedTokenizerFast, name: str
) -> None:
    reader = GGUFReader(written(tmp_path, name, lines))
    settings, architecture = MODELS[name]
    model = hf.load(tmp_path / "model")
    found = {tensor.name: tensor for tensor in reader.tensors}
    extra = 1 if settings.get("rope_scaling") == LLAMA3 else 0
    assert len(found) == len(list(model.parameters())) + extra
    assert value(reader, "general.architecture") == architecture
    heads = model.config.num_attention_heads
    key = f"blk.0.attn_q.{'bias' if model.config.attention_bias else 'weight'}"
    stored = torch.from_numpy(found[key].data.copy())
    ours = model.state_dict()["layers.0.self_attn.q_proj." + key.rpartition(".")[2]]
    turned = interleaved(ours, heads) if architecture in ("llama", "smollm3") else ours
    assert torch.equal(stored, turned) and (architecture == "qwen3" or not torch.equal(ours, interleaved(ours, heads)))
    prefix = f"{architecture}."
    assert value(reader, prefix + "attention.head_count_kv") == model.config.kv_heads
    assert value(reader, prefix + "rope.dimension_count") == model.config.head_size
    if model.config.num_experts:
        assert list(found["blk.1.ffn_down_exps.weight"].shape) == [
            model.config.expert_size, model.config.hidden_size, 4
        ]  # fmt: skip
        assert value(reader, prefix + "expert_used_count") == 2


def test_the_tokenizer_and_the_facts_are_in_it(tmp_path: Path, lines: PreTrainedTokenizerFast) -> None:
    reader = GGUFReader(written(tmp_path, "llama", lines, "q8_0"))
    assert value(reader, "tokenizer.ggml.model") == "gpt2" and value(reader, "tokenizer.ggml.pre") == "smollm"
    assert value(reader, "tokenizer.ggml.tokens") == lines.convert_ids_to_tokens(list(range(768)))
    assert len(value(reader, "tokenizer.ggml.merges")) > 400
    assert value(reader, "tokenizer.ggml.eos_token_id") == 0 and value(reader, "tokenizer.ggml.eot_token_id") == 2
    assert value(reader, "tokenizer.ggml.padding_token_id") == 3
    assert value(reader, "tokenizer.chat_template") == lines.chat_template
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    assert value(reader, "general.license") == "mit" and value(reader, "general.languages") == ["en"]
    assert value(reader, "general.name") == "Toy" and value(reader, "general.file_type") == 7


@pytest.mark.parametrize("kind", DIRECT_TYPES)
def test_types_cost_what_they_cost(tmp_path: Path, lines: PreTrainedTokenizerFast, kind: str) -> None:
    reader = GGUFReader(written(tmp_path, "llama", lines, kind))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    weight = tensors["blk.0.ffn_up.weight"]
    assert weight.tensor_type.name.lower() == kind
    assert tensors["output_norm.weight"].tensor_type.name == "F32"
    four_or_five = kind.startswith(("q4", "q5"))
    assert tensors["token_embd.weight"].tensor_type.name.lower() == ("q8_0" if four_or_five else kind)
    ours = hf.load(tmp_path / "model").state_dict()["layers.0.mlp.up_proj.weight"].numpy()
    error = np.abs(dequantize(weight.data, weight.tensor_type) - ours).max() / np.abs(ours).max()
    bound = {
        "f32": 0.0,
        "f16": 5e-4,
        "bf16": 4e-3,
        "q8_0": 5e-3,
        "q5_1": 0.05,
        "q5_0": 0.08,
        "q4_1": 0.08,
        "q4_0": 0.15,
    }
    assert (error == 0) if kind == "f32" else (0 < error < bound[kind])
    planned = gguf_plan(tmp_path / "model", kind).file_bytes
    assert abs(sum(tensor.n_bytes for tensor in reader.tensors) - planned) <= 0.01 * planned


def test_rows_that_are_no_multiple_of_a_block_stay_f16(tmp_path: Path, lines: PreTrainedTokenizerFast) -> None:
    reader = GGUFReader(written(tmp_path, "llama odd rows", lines, "q4_0"))
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F16", "F32"}
    assert type_of("blk.0.ffn_gate_inp.weight", (4, 64), "q8_0") == "f32"


def test_numbers_that_a_type_does_not_have_are_refused() -> None:
    with pytest.raises(ModelError, match="65504"):
        packed("w", np.full((1, 32), 1e6, np.float32), "f16")
    with pytest.raises(ModelError, match="not finite"):
        packed("w", np.full((1, 32), np.nan, np.float32), "q8_0")


@pytest.mark.parametrize(("settings", "named"), [
    ({"attention_sinks": True}, "attention_sinks"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping 30"),
    ({"sliding_window": 32}, "sliding_window 32"),
    ({"no_rope_layer_interval": 2}, "every 4th"),
    ({"qk_norm": True, "attention_bias": True}, "attention_bias"),
    ({"qk_norm": True, "rope_scaling": LLAMA3}, "llama3"),
    ({"rope_scaling": {**YARN, "beta_fast": 16.0}}, "beta_fast 16"),
    ({"rope_scaling": {**YARN, "truncate": False}}, "truncate false"),
    ({"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False}, "norm_topk_prob"),
    ({"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": (1,)}, "mlp_only_layers"),
    ({"num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32}, "shared_expert"),
])  # fmt: skip
def test_what_llama_cpp_would_ignore_is_an_error(settings: dict[str, Any], named: str) -> None:
    config = ModelConfig.model_validate({**SHAPE, "vocab_size": 512, **settings})
    with pytest.raises(ModelError, match=named):
        gguf_architecture(config)


def test_a_type_without_its_quantiser_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_quantise.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="llama-cpp-python") as caught:
        check_type("q4_k_m")
    assert "q8_0" in str(caught.value)
    check_type("q4_0")
    with pytest.raises(ModelError, match="no type 'q9'"):
        check_type("q9")


def test_a_part_without_a_name_is_an_error() -> None:
    config = ModelConfig.model_validate({**SHAPE, "vocab_size": 512})
    with pytest.raises(ModelError, match=r"no name for layers\.0\.odd"):
        list(gguf_tensors(config, gguf_architecture(config), {"layers.0.odd.weight": torch.zeros(1)}))
