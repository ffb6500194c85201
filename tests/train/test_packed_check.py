"""The check before a packed training passes for what is right and stops what leaks."""

from __future__ import annotations

import pytest
import torch

import luopan.model.decoder as decoder_module
from luopan.errors import TrainingError
from luopan.model.attention import Layout
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.example import Example
from luopan.train.config import TrainConfig
from luopan.train.packed_check import check_packed, whole

CPU = torch.device("cpu")
TRAINING = TrainConfig(learning_rate=1e-3, max_steps=1)


def model() -> Decoder:
    return Decoder(
        ModelConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    )


def doc(*ids: int, prefix: int = 0) -> Example:
    return Example(list(ids), list(ids), prefix=prefix)


def test_rows_with_borders_pass() -> None:
    rows = [[doc(1, 2, 3, 4, 5), doc(9, 8, 7), doc(30, 31, 32, 33)], [doc(5, 6, 7)]]
    found = check_packed(model(), rows, 0, TRAINING, CPU)
    assert found is not None and found < 1e-5
    assert check_packed(model(), [[doc(1, 2, 3)]], 0, TRAINING, CPU) is None  # nothing is packed


def test_attention_over_the_borders_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attention that only knows causal rows does to a packed one."""
    right = decoder_module.attend

    def leaky(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, **more: object) -> torch.Tensor:
        return right(q, k, v, Layout.causal(q.shape[0], q.shape[2]), **more)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder_module, "attend", leaky)
    with pytest.raises(TrainingError, match="see each other"):
        check_packed(model(), [[doc(1, 2, 3, 4, 5), doc(9, 8, 7, 6)]], 0, TRAINING, CPU)


def test_weights_that_are_not_finite_are_named() -> None:
    broken = model()
    with torch.no_grad():
        dict(broken.named_parameters())["layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        check_packed(broken, [[doc(1, 2, 3), doc(4, 5)]], 0, TRAINING, CPU)


def test_a_document_with_a_shared_prompt_is_compared_whole() -> None:
    row = [doc(1, 2, 3, 4, 5), doc(9, 8, 7, prefix=3)]
    assert list(whole(row, 1).input_ids) == [1, 2, 3, 9, 8, 7]
    assert list(whole(row, 0).input_ids) == [1, 2, 3, 4, 5]
    found = check_packed(model(), [row], 0, TRAINING, CPU)
    assert found is not None and found < 1e-5
