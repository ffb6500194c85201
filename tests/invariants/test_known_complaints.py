"""What users of other trainers complain of, shown to be an error here, with the other library's own silence beside it.

Each test names the report. Where it is cheap, TRL runs on the same input, to show that the trap is real.
"""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import luopan.model.decoder as decoder_module
from luopan.errors import DataError, ModelError, RecipeError, TrainingError
from luopan.model.attention import Layout
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.objectives.preference import dpo
from luopan.recipe.parts import ChatSource
from luopan.stages.conversations import chat_data, data_notes
from luopan.tokens.base_model import choose_pad
from luopan.tokens.batch import collate
from luopan.tokens.chat import encode_chat
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.example import Example
from luopan.tokens.tokenizer import train_tokenizer
from luopan.train.config import TrainConfig
from luopan.train.losses import causal_lm_loss
from luopan.train.packed_check import check_packed

TALK = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(pydoc_data.topics.topics.values(), TokenizerConfig(vocab_size=384))


def tiny() -> Decoder:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Decoder(ModelConfig(vocab_size=384, **shape))


def test_packing_that_leaks_is_stopped_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """trl#1230, #3067, axolotl#3453: documents of a packed row see each other, and at most a warning is said."""
    right = decoder_module.attend

    def leaky(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, **more: Any) -> torch.Tensor:
        return right(q, k, v, Layout.causal(q.shape[0], q.shape[2]), **more)

    rows = [[Example([1, 2, 3, 4], [1, 2, 3, 4]), Example([5, 6, 7], [5, 6, 7])]]
    training = TrainConfig(learning_rate=1e-3, max_steps=1)
    assert check_packed(tiny(), rows, 0, training, torch.device("cpu")) is not None
    monkeypatch.setattr(decoder_module, "attend", leaky)
    with pytest.raises(TrainingError, match="see each other"):
        check_packed(tiny(), rows, 0, training, torch.device("cpu"))


def test_padding_with_the_stop_token_still_trains_the_stop(tokenizer: Any) -> None:
    """trl#1623, unsloth#416: pad == eos is masked away by token, and the model never stops.

    Masks go by position here; a base model that pads with its stop token is given another one, or refused.
    """
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    example = encode_chat(tokenizer, TALK)
    batch = collate([[example]], 40, pad_id=stop)
    assert int((batch.targets().ids == stop).sum()) == 1
    with pytest.raises(ModelError, match="is the token that ends a turn"):
        choose_pad(tokenizer, "<|im_end|>")


def test_a_row_with_nothing_left_to_learn_is_never_trained_on(tokenizer: Any, tmp_path: Path) -> None:
    """trl#6548, #5826, nanochat#590: truncation cuts the answer off, the mask is empty, the loss is NaN.

    TRL's masked mean over such a row, and what becomes of the row here.
    """
    labels = torch.full((1, 8), -100)
    assert torch.isnan(torch.nn.functional.cross_entropy(torch.randn(1, 8, 9).flatten(0, 1), labels.flatten()))
    long = [{"role": "user", "content": "why " * 200}, TALK[1]]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in (TALK, long, long)))
    for policy in ("drop", "keep_head", "split_turns", "split_tokens"):
        data = chat_data(
            tokenizer, [ChatSource(path=str(file))], seed=0, max_length=48, truncation=policy  # type: ignore[arg-type]
        )  # fmt: skip
        assert all(example.num_trained > 0 for example in data.examples)
    dropped = chat_data(tokenizer, [ChatSource(path=str(file))], seed=0, max_length=48)
    assert [where for where, _ in dropped.set_aside] == [f"{file}:2", f"{file}:3"]
    assert any("More than half" in note for note in data_notes(dropped))
    with pytest.raises(DataError, match="no conversation is left"):
        chat_data(tokenizer, [ChatSource(path=str(file))], seed=0, max_length=4)


def test_a_knob_that_does_nothing_is_refused() -> None:
    """`label_smoothing` does nothing with most of TRL's losses: the same number comes out, without a word."""
    sides = [torch.tensor([value]) for value in (-10.0, -9.0, -12.0, -8.0)]
    for loss_type in ("hinge", "apo_zero", "ipo", "nca_pair"):
        with pytest.raises(RecipeError, match="no effect"):
            dpo(*sides, beta=0.1, label_smoothing=0.1, loss_type=loss_type)  # type: ignore[arg-type]
    smoothed, plain = (dpo(*sides, beta=0.1, label_smoothing=e).total for e in (0.1, 0.0))
    assert smoothed != plain  # cDPO, where TRL's "sigmoid" ignores it


def test_a_template_that_would_drop_something_is_refused(tokenizer: Any) -> None:
    """open-r1#515, alignment-handbook's SmolLM3 template: what the template has no place for is gone.

    transformers renders without a word; here tools, thinking and arguments without a place are errors.
    """
    plain = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fine = train_tokenizer(pydoc_data.topics.topics.values(), TokenizerConfig(vocab_size=384))
    fine.chat_template = plain
    tool = {"type": "function", "function": {"name": "zebra"}}
    assert "zebra" not in fine.apply_chat_template(TALK, tools=[tool], tokenize=False)
    with pytest.raises(DataError, match="no place for tools"):
        encode_chat(fine, TALK, tools=[tool])
    thinking = [TALK[0], {**TALK[1], "reasoning_content": "zebra"}]
    assert "zebra" not in fine.apply_chat_template(thinking, tokenize=False)
    with pytest.raises(DataError, match="no place for thinking"):
        encode_chat(fine, thinking, enable_thinking=True)


def test_accumulation_counts_tokens_and_not_micro_batches() -> None:
    """trl#2175, #5619, transformers#34191: a mean of means weighs short micro-batches more."""
    model = tiny()
    docs = [Example(list(range(n)), list(range(n))) for n in (3, 30)]
    whole = causal_lm_loss(model, collate([docs], 33, 0))
    parts = [causal_lm_loss(model, collate([[doc]], 30, 0)) for doc in docs]
    total, weight = (sum(getattr(part, name).item() for part in parts) for name in ("total", "weight"))
    assert total / weight == pytest.approx((whole.total / whole.weight).item(), rel=1e-5)
    means = sum((part.total / part.weight).item() for part in parts) / 2
    assert abs(means - total / weight) > 1e-4  # what averaging averages would have given
    assert SimpleNamespace(total=total, weight=weight).weight == 31
