"""What holds for every training holds with an adapter: the batch cut otherwise, resumed, packed; the base is fixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from luopan.errors import Interrupted
from luopan.model.adapter_config import AdapterConfig
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import adapters_off, attach
from luopan.tokens.batch import Batch, collate
from luopan.tokens.example import IGNORE, Example
from luopan.train.checkpoint import steps_saved
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss, sequence_logprobs
from luopan.train.progress import SilentProgress

KINDS = {
    "lora": AdapterConfig(r=4),
    "dropout": AdapterConfig(r=4, lora_dropout=0.2),
    "dora": AdapterConfig(r=4, use_dora=True),
    "int8": AdapterConfig(r=4, base="int8"),
    "nf4": AdapterConfig(r=4, base="nf4"),
    "embeddings": AdapterConfig(r=4, modules_to_save=("embed_tokens",)),
}


def model(kind: str) -> Decoder:
    made = Decoder(
        ModelConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, initializer_range=0.1,
        )
    )  # fmt: skip
    attach(made, KINDS[kind], seed=2)
    return made


class Feed:
    """Sixteen conversations a step, in micro-batches of `size`."""

    prefetchable = True

    def __init__(self, size: int) -> None:
        self.size = size

    def micro_batches(self, step: int) -> list[Batch]:
        rng = torch.Generator().manual_seed(step)
        docs = []
        for number in range(16):
            ids = torch.randint(0, 50, (6 + number,), generator=rng).tolist()
            docs.append(Example(ids, [IGNORE] * 3 + ids[3:]))
        return [collate([[doc] for doc in docs[i : i + self.size]], 24, 0) for i in range(0, 16, self.size)]


def trained(kind: str, folder: Path, size: int = 16, steps: int = 6, stop: int | None = None) -> Decoder:
    made = model(kind)
    config = TrainConfig(
        learning_rate=1e-2, lr_scheduler_type="constant", max_steps=steps, save_steps=3, logging_steps=1,
        per_device_train_batch_size=size, gradient_accumulation_steps=16 // size,
    )  # fmt: skip

    def hook(step: int, _: Decoder) -> None:
        if step == stop:
            raise Interrupted("as Ctrl-C does")

    hooks = [hook] if stop is not None else []
    fit(made, Feed(size), causal_lm_loss, config, folder, device="cpu", seed=1, progress=SilentProgress(), hooks=hooks)
    return made


def changed(one: Decoder, other: Decoder) -> float:
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for (_, a), b in pairs if a.numel())


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_is_uninterrupted_to_the_bit(tmp_path: Path, kind: str) -> None:
    whole = trained(kind, tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(kind, tmp_path / "cut", stop=4)
    assert steps_saved(tmp_path / "cut" / "checkpoints")
    assert changed(whole, trained(kind, tmp_path / "cut")) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dropout"])
def test_accumulation_changes_nothing(tmp_path: Path, kind: str) -> None:
    assert changed(trained(kind, tmp_path / "one"), trained(kind, tmp_path / "four", size=4)) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_moves(tmp_path: Path, kind: str) -> None:
    before, after = model(kind), trained(kind, tmp_path)
    fresh = dict(before.named_parameters())
    for name, parameter in after.named_parameters():
        assert torch.equal(parameter, fresh[name]) is not parameter.requires_grad, name
    batch = Feed(16).micro_batches(0)[0]
    with torch.no_grad(), adapters_off(after):
        assert torch.equal(sequence_logprobs(after.eval(), batch), sequence_logprobs(before.eval(), batch))


def test_checkpoints_hold_what_is_trained_and_no_more(tmp_path: Path) -> None:
    made = trained("lora", tmp_path)
    (folder,) = [file.parent for file in sorted((tmp_path / "checkpoints").rglob(".metadata"))][-1:]
    kept = FileSystemReader(folder).read_metadata().state_dict_metadata
    weights = {name.removeprefix("model.") for name in kept if name.startswith("model.")}
    assert weights == {name for name, parameter in made.named_parameters() if parameter.requires_grad}


def test_packed_is_unpacked() -> None:
    made = model("lora").eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    docs = [Example(list(range(n)), list(range(n))) for n in (5, 9, 7)]
    packed = collate([docs], 21, 0)
    alone = collate([[replace(doc)] for doc in docs], 9, 0)
    with torch.no_grad():
        assert (sequence_logprobs(made, packed) - sequence_logprobs(made, alone)).abs().max() < 1e-5
