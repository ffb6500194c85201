from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from luopan.errors import DataError, ModelError
from luopan.model import hf
from luopan.tokens.chat import encode_text
from luopan.tokens.extend import EMBEDDING, HEAD, INDEX, WEIGHTS, add_tokens, extend_model, new_rows, read_tokens
from luopan.tokens.tokenizer import load_tokenizer, plain_backend, save_tokenizer

NEW = ["luopan compass", "羅盤", "zyzzyva"]


def make_model(folder: Path, tokenizer: PreTrainedTokenizerFast, tied: bool, rows: int = 1024) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=tied, eos_token_id=0, bos_token_id=None, pad_token_id=3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    (folder / "notes.md").write_text("kept")
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_old_rows_are_those_of_transformers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, tied: bool) -> None:
    peer = make_model(tmp_path / "model", tokenizer, tied)
    text = "The import statement is executed in two steps"
    ids = torch.tensor([plain_backend(tokenizer).encode(text).ids])
    before = peer(ids).logits
    made = extend_model(tmp_path / "model", NEW, tmp_path / "out")
    assert made.as_dict() == {
        "added": 3, "vocabulary_before": 1024, "vocabulary": 1027, "rows_before": 1024, "rows": 1152, "tied": tied,
    }  # fmt: skip
    peer.resize_token_embeddings(1152, mean_resizing=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert loaded.config.vocab_size == 1152 and loaded.config.tie_word_embeddings is tied
    for ours, theirs in (
        (loaded.get_input_embeddings(), peer.get_input_embeddings()),
        (loaded.get_output_embeddings(), peer.get_output_embeddings()),
    ):
        assert ours.weight.shape == theirs.weight.shape == (1152, 16)
        assert torch.equal(ours.weight[:1024], theirs.weight[:1024])
    assert torch.equal(loaded(ids).logits[..., :1024], peer(ids).logits[..., :1024])
    torch.testing.assert_close(hf.load(tmp_path / "out")(ids)[..., :1024], before, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "out" / "notes.md").read_text() == "kept"
    assert not [path for path in tmp_path.iterdir() if path.name not in ("model", "out")]


def test_new_rows_are_means_of_the_pieces(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    make_model(tmp_path / "model", tokenizer, tied=False)
    old = load_file(tmp_path / "model" / WEIGHTS)
    extend_model(tmp_path / "model", NEW, tmp_path / "pieces", multiple_of=1)
    extend_model(tmp_path / "model", NEW, tmp_path / "all", init="all", multiple_of=1)
    by_pieces, by_all = (load_file(tmp_path / name / WEIGHTS) for name in ("pieces", "all"))
    for name in (EMBEDDING, HEAD):
        assert by_pieces[name].shape == (1027, 16)
        for number, token in enumerate(NEW):
            pieces = plain_backend(tokenizer).encode(token).ids
            assert len(pieces) > 1
            torch.testing.assert_close(by_pieces[name][1024 + number], old[name][pieces].mean(0))
            torch.testing.assert_close(by_all[name][1024 + number], old[name].mean(0))
    rest = set(old) - {EMBEDDING, HEAD}
    assert rest and all(torch.equal(by_pieces[name], old[name]) for name in rest)


def test_new_rows_by_hand() -> None:
    weight = torch.tensor([[0.0, 0.0], [2.0, 4.0], [4.0, 8.0], [99.0, 99.0]])  # the last row is no token's
    grown = new_rows(weight, 3, [[1, 2], []], "pieces", 6)
    assert grown.tolist() == [[0, 0], [2, 4], [4, 8], [3, 6], [2, 4], [2, 4]]
    assert new_rows(weight.bfloat16(), 3, [[1, 2]], "all", 4)[3].tolist() == [2, 4]


def test_spare_rows_are_used_first_and_types_kept(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    make_model(tmp_path / "model", tokenizer, tied=True, rows=1152)
    file = tmp_path / "model" / WEIGHTS
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    made = extend_model(tmp_path / "model", NEW, tmp_path / "out")
    assert (made.rows_before, made.rows) == (1152, 1152)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.bfloat16}
    # Once more: tokens behind those added before.
    again = extend_model(tmp_path / "out", ["second helping"], tmp_path / "more")
    assert (again.vocabulary_before, again.vocabulary) == (1027, 1028)
    assert load_tokenizer(tmp_path / "more").convert_tokens_to_ids("second helping") == 1027


def test_several_weights_files(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = make_model(tmp_path / "whole", tokenizer, tied=False)
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    save_tokenizer(tokenizer, tmp_path / "model")
    assert (tmp_path / "model" / INDEX).is_file()
    extend_model(tmp_path / "model", NEW, tmp_path / "out")
    extend_model(tmp_path / "whole", NEW, tmp_path / "out_whole")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    split = {n: t for f in set(index["weight_map"].values()) for n, t in load_file(tmp_path / "out" / f).items()}
    whole = load_file(tmp_path / "out_whole" / WEIGHTS)
    assert split.keys() == whole.keys() and all(torch.equal(split[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in split.values())


def test_words_are_found_in_plain_text_and_control_tokens_are_not(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, tmp_path)
    words, control = load_tokenizer(tmp_path), load_tokenizer(tmp_path)
    add_tokens(words, NEW)
    add_tokens(control, ["<|tool|>"], special=True)
    ids = list(encode_text(words, "a 羅盤, a zyzzyva").input_ids)
    assert {1025, 1026} <= set(ids)
    assert words.decode(ids[:-1]) == "a 羅盤, a zyzzyva"
    assert 1024 not in encode_text(control, "<|tool|>").input_ids
    assert control.encode("<|tool|>") == [1024]
    assert control.decode([1024], skip_special_tokens=True) == ""
    save_tokenizer(words, tmp_path / "again")
    assert list(encode_text(load_tokenizer(tmp_path / "again"), "a 羅盤, a zyzzyva").input_ids) == ids


@pytest.mark.parametrize(("tokens", "match"), [
    (["ok then", " "], "white space only"),
    (["twice over", "twice over"], "given twice"),
    ([" the"], "token already"),
    (["<think>"], "token already"),
])  # fmt: skip
def test_tokens_that_cannot_be_added(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, tokens: list[str], match: str
) -> None:
    make_model(tmp_path / "model", tokenizer, tied=True)
    with pytest.raises(DataError, match=match):
        extend_model(tmp_path / "model", tokens, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_that_cannot_be_extended(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    make_model(tmp_path / "model", tokenizer, tied=True)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        extend_model(tmp_path / "model", NEW, tmp_path / "out")
    save_file({"transformer.wte.weight": torch.zeros(1024, 4)}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(ModelError, match=r"no model\.embed_tokens"):
        extend_model(tmp_path / "model", NEW, tmp_path / "new")
    save_file({EMBEDDING: torch.zeros(1000, 4)}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(ModelError, match="1000 rows, the tokenizer 1024"):
        extend_model(tmp_path / "model", NEW, tmp_path / "new")
    (tmp_path / "model" / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        extend_model(tmp_path / "model", NEW, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_reading_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text(" leading space\n\n羅盤\n", encoding="utf-8")
    assert read_tokens(file) == [" leading space", "羅盤"]
    listed = tmp_path / "tokens.json"
    listed.write_text('["a\\nb"]')
    assert read_tokens(listed) == ["a\nb"]
    for content, match in (
        ('{"a": 1}', "not a list"),
        ("[1]", "not a list"),
        ("[]", "no tokens"),
        ("[", "cannot be read"),
    ):
        listed.write_text(content)
        with pytest.raises(DataError, match=match):
            read_tokens(listed)
    with pytest.raises(DataError, match="cannot be read"):
        read_tokens(tmp_path / "nowhere.txt")
