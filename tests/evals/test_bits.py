"""Bits per byte: bytes counted exactly, every token scored once, equal to a slow loop over transformers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from evals_models import TEXT, tiny_model, tiny_tokenizer, uniform_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from luopan.errors import DataError
from luopan.evals.bits import bits_per_byte, encode, loss_by_position, windows
from luopan.model.hf import save

TEXTS = [TEXT, "北京 first, then naïve text.", "👍 starts with a split character", "short", "The code of the box"]


def ids_of(text):
    return tiny_tokenizer()(text, add_special_tokens=False).input_ids


def test_a_model_that_knows_nothing_costs_the_logarithm_of_its_vocabulary():
    texts = [text for text in TEXTS if len(ids_of(text)) <= 64]
    found = bits_per_byte(uniform_model(256), tiny_tokenizer(), texts)
    tokens = sum(len(ids_of(text)) - 1 for text in texts)
    assert found.tokens == tokens and found.documents == len(texts)
    assert found.nats == pytest.approx(tokens * math.log(len(tiny_tokenizer())), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(tokens * math.log2(len(tiny_tokenizer())) / found.bytes, rel=1e-5)
    assert found.loss == pytest.approx(math.log(len(tiny_tokenizer())), rel=1e-5)


@pytest.mark.parametrize("text", ["The code", "北京", "👍👍", "é", " leading space", "\n\nx", "é" * 9])
def test_the_bytes_are_those_of_all_tokens_but_the_first(text):
    tokenizer = tiny_tokenizer()
    (found,) = encode(tokenizer, [text])
    alphabet = tokenizer.convert_ids_to_tokens(found.ids)
    assert found.bytes == len(text.encode()) - len(alphabet[0]) == sum(map(len, alphabet[1:]))


def test_control_tokens_in_a_text_are_text():
    (found,) = encode(tiny_tokenizer(), ["a<|endoftext|>b"])
    assert tiny_tokenizer().eos_token_id not in found.ids
    assert found.bytes == len("a<|endoftext|>b") - 1


def test_equals_transformers_on_whole_texts(tmp_path):
    model = tiny_model(256)
    save(model, tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    theirs = 0.0
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([ids_of(text)])
            theirs += peer(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    found = bits_per_byte(model, tiny_tokenizer(), TEXTS)
    assert found.nats == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("length", "overlap"), [(16, 4), (16, 0), (16, 15), (7, 3), (2, 1), (64, 16)])
def test_windows_score_every_token_once(length, overlap):
    (text,) = encode(tiny_tokenizer(), [TEXT])
    overlap = max(1, overlap)
    scored = []
    at = 0
    for ids, start in windows(text, length, overlap):
        assert 1 <= start < len(ids) <= length
        place = len(scored) + 1 - start  # where the window lies in the text
        assert text.ids[place : place + len(ids)] == ids
        assert place == 0 or start >= overlap
        scored += ids[start:]
        at += 1
    assert scored == text.ids[1:] and at >= len(text.ids) // length


def test_windows_change_the_figure_only_as_far_as_context_is_missing():
    model = tiny_model(256)
    whole = bits_per_byte(model, tiny_tokenizer(), [TEXT])
    cut = bits_per_byte(model, tiny_tokenizer(), [TEXT], length=16)
    assert (whole.tokens, whole.bytes) == (cut.tokens, cut.bytes)
    assert whole.nats != cut.nats
    # The figure of a window of 16 with overlap 15 by hand: each token from the 15 before it.
    ids = ids_of(TEXT)
    with torch.no_grad():
        nats = 0.0
        for at in range(1, len(ids)):
            seen = torch.tensor(ids[max(0, at - 15) : at + 1])
            nats -= torch.log_softmax(model(seen[None])[0, -2].double(), -1)[ids[at]].item()
    sliding = bits_per_byte(model, tiny_tokenizer(), [TEXT], length=16, overlap=15)
    assert sliding.nats == pytest.approx(nats, rel=1e-4)


def test_texts_do_not_see_each_other_and_their_order_does_not_matter():
    model = tiny_model(256)
    one = sum(bits_per_byte(model, tiny_tokenizer(), [text]).nats for text in TEXTS)
    assert bits_per_byte(model, tiny_tokenizer(), TEXTS).nats == pytest.approx(one, rel=1e-5)
    assert bits_per_byte(model, tiny_tokenizer(), TEXTS[::-1]).nats == pytest.approx(one, rel=1e-5)
    assert (
        bits_per_byte(model, tiny_tokenizer(), iter(TEXTS)).bytes == bits_per_byte(model, tiny_tokenizer(), TEXTS).bytes
    )


def test_a_tokenizer_with_a_start_token_scores_every_byte():
    vocabulary = {"<s>": 0, "</s>": 1, "▁a": 2, "▁b": 3, "é": 4}
    backend = Tokenizer(models.WordLevel({**vocabulary, "a": 5, "b": 6}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    (found,) = encode(tokenizer, ["é a b"])
    assert (found.ids, found.start, found.bytes) == ([0, 4, 5, 6], 1, len("é a b".encode()))


def test_a_tokenizer_that_is_not_byte_level_leaves_the_first_words_bytes_out():
    backend = Tokenizer(models.WordLevel({"é": 0, "a": 1, "</s>": 2}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert encode(tokenizer, ["é a"])[0].bytes == len("é a".encode()) - len("é".encode())


def test_what_cannot_be_measured_is_an_error():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    for texts in ([], [""], ["a"]):
        with pytest.raises(DataError, match="no text to measure"):
            bits_per_byte(model, tokenizer, texts)
    with pytest.raises(DataError, match="context of 64"):
        bits_per_byte(model, tokenizer, TEXTS, length=65)
    with pytest.raises(DataError, match="overlap is 16"):
        bits_per_byte(model, tokenizer, TEXTS, length=16, overlap=16)
    with pytest.raises(DataError, match="surrogate"):
        bits_per_byte(model, tokenizer, ["x\ud800y"])


def test_loss_by_position_is_the_mean_over_runs():
    model, tokenizer = tiny_model(64), tiny_tokenizer()
    found = loss_by_position(model, tokenizer, [TEXT, "too short"], length=16, bucket=8)
    runs = [ids_of(TEXT)[at : at + 16] for at in range(0, len(ids_of(TEXT)) - 15, 16)]
    assert found.runs == len(runs) >= 3
    with torch.no_grad():
        rows = torch.tensor(runs)
        losses = F.cross_entropy(model(rows)[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none").mean(0)  # [15]
    assert [middle for middle, _ in found.points] == [4, 12]
    assert [loss for _, loss in found.points] == pytest.approx(
        [losses[:7].mean().item(), losses[7:].mean().item()], rel=1e-4
    )
    assert found.beyond(8) == found.points[1][1] and found.beyond(16) is None


def test_loss_by_position_with_an_uneven_last_bucket_and_without_long_text():
    model, tokenizer = tiny_model(64), tiny_tokenizer()
    assert [middle for middle, _ in loss_by_position(model, tokenizer, [TEXT], length=20, bucket=8).points] == [
        4,
        12,
        18,
    ]
    empty = loss_by_position(model, tokenizer, ["short"], length=16)
    assert (empty.points, empty.runs, empty.beyond(0)) == ([], 0, None)
