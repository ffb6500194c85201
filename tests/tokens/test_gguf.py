"""A model of ours written as GGUF comes back with the same logits; what is no GGUF is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.gguf import check_gguf, convert_gguf
from luopan.tokens.tokenizer import load_tokenizer


def write_gguf(file: Path, model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    """The model as llama.cpp's converter would write it: its own names, rotary halves interleaved."""
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(names))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_tensor("token_embd.weight", model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", model.norm.weight.detach().numpy())
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    state = model.state_dict()
    for layer in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            tensor = state[f"layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if theirs == "attn_q" else config.kv_heads
                tensor = interleaved(tensor, heads)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection [heads * D, C] in llama.cpp's order, where the two halves of a rotation stand in turn."""
    size, width = weight.shape
    return weight.view(heads, 2, size // heads // 2, width).transpose(1, 2).reshape(size, width)


def test_a_model_comes_back_with_the_same_logits(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = ModelConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rope_theta=50_000.0,
    )  # fmt: skip
    model = Decoder(config).eval()
    write_gguf(tmp_path / "toy.gguf", model, tokenizer)
    convert_gguf(tmp_path / "toy.gguf", tmp_path / "out")
    again = hf.load(tmp_path / "out").eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (model(ids) - again(ids)).abs().max() < 1e-6
    assert again.config.rope_theta == 50_000.0 and again.config.max_position_embeddings == 64
    theirs = load_tokenizer(tmp_path / "out")
    text = "for x in range(10): print(x)"
    assert theirs.decode(theirs(text).input_ids) == text and theirs.eos_token == tokenizer.eos_token
    assert theirs.chat_template == "{{ messages[0].content }}"


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        check_gguf(tmp_path / "gone.gguf")
    (tmp_path / "odd.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ModelError, match="does not begin with GGUF"):
        check_gguf(tmp_path / "odd.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        convert_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
