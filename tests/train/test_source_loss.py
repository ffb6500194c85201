"""The loss told by source: the same weights to the bit, and each source's figure against one computed by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_toys import LENGTH, VOCAB, config, tiny_model

from luopan.errors import TrainingError
from luopan.model.head import linear_cross_entropy, token_cross_entropy
from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics
from luopan.train.window import Window, means, source_loss

NAMES = ("web", "code", "never", "a_max")  # a name that ends like a maximum's


def docs(n: int) -> list[Doc]:
    """Row n: two documents of one source."""
    draw = np.random.default_rng(n)
    ids = draw.integers(0, VOCAB, (2, LENGTH // 2)).tolist()
    return [Doc(one, one, fields={"source": (0, 1, 3, 0)[n % 4]}) for one in ids]


class Rows:
    """Eight rows a step, in micro-batches of `size`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def micro_batches(self, step: int) -> list[Batch]:
        rows = [docs(8 * step + i) for i in range(8)]
        return [collate(rows[i : i + self.size], LENGTH, 0) for i in range(0, 8, self.size)]


def train(folder: Path, size: int, sources: tuple[str, ...] = NAMES, **changes: Any) -> tuple[bytes, list[dict]]:
    model = tiny_model()
    loss = partial(causal_lm_loss, sources=sources, z_loss_coef=1e-3)
    settings = config(max_steps=6, logging_steps=2, save_steps=3, gradient_accumulation_steps=8 // size, **changes)
    fit(model, Rows(size), loss, settings, folder, device="cpu", seed=0, progress=SilentProgress())
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
    return weights, read_metrics(folder)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_head_gives_the_same_bits_with_each_tokens_loss(softcap: float | None) -> None:
    torch.manual_seed(0)
    found = []
    for head in (linear_cross_entropy, token_cross_entropy):
        generator = torch.Generator().manual_seed(1)
        hidden = torch.randn(700, 8, generator=generator).requires_grad_()  # more than one piece
        weight = torch.randn(50, 8, generator=generator).requires_grad_()
        targets = torch.randint(0, 50, (700,), generator=generator)
        total, squares, *each = head(hidden, weight, targets, softcap=softcap, z_loss_coef=1e-3)
        total.backward()
        assert hidden.grad is not None and weight.grad is not None
        found.append((total.detach(), squares, hidden.grad, weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found))
    logits = hidden.detach() @ weight.detach().t()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    torch.testing.assert_close(each[0], torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    assert not each[0].requires_grad


def test_each_source_by_itself() -> None:
    model, rows = tiny_model(), [docs(n) for n in range(4)]
    term = causal_lm_loss(model, collate(rows, LENGTH, 0), sources=NAMES)
    for number, name in enumerate(NAMES):
        own = [row for row in rows if row[0].fields["source"] == number]
        total, count = term.metrics[source_loss(name)]
        assert float(count) == 2 * len(own) * (LENGTH // 2 - 1)
        if own:
            alone = causal_lm_loss(model, collate(own, LENGTH, 0))
            torch.testing.assert_close(total, alone.total.detach())
    parts = [term.metrics[source_loss(name)][0] for name in NAMES]
    torch.testing.assert_close(sum(parts), term.total.detach())


def test_telling_sources_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    weights, lines = train(tmp_path / "plain", 4, sources=())
    told, more = train(tmp_path / "told", 4)
    assert told == weights
    timed = {"seconds", "feed_seconds", "tokens_per_second", "memory_bytes", "alarms"}
    for one, other in zip(lines, more, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed and not k.startswith("source/")
        }
        assert not any(key.startswith("source/") for key in one)


def test_sums_and_counts_over_accumulation_and_steps(tmp_path: Path) -> None:
    _, whole = train(tmp_path / "whole", 8)
    _, cut = train(tmp_path / "cut", 2)
    wanted = {source_loss(name) for name in ("web", "code", "a_max")}
    for one, other in zip(whole, cut, strict=True):
        assert {key for key in one if key.startswith("source/")} == wanted  # `never` was not read: no figure
        assert {key: other[key] for key in wanted} == pytest.approx({key: one[key] for key in wanted}, rel=1e-4)
        # web has half of the rows, the others a quarter each; the loss has its z-loss on top
        mean = 0.5 * one[source_loss("web")] + 0.25 * (one[source_loss("code")] + one[source_loss("a_max")])
        assert one["loss"] - 1e-3 * one["z_loss"] == pytest.approx(mean, rel=1e-5)


def test_a_source_that_was_read_in_some_micro_batches_only() -> None:
    window = Window()
    for total, count in ((6.0, 3.0), (0.0, 0.0), (4.0, 2.0)):
        window.add(torch.zeros(()), {source_loss("x"): (torch.tensor(total), torch.tensor(count))})
    window.add(torch.ones(()), {source_loss("x"): (torch.tensor(99.0), torch.tensor(1.0))})  # left out: a bad step
    assert means(window.over_ranks()) == {"source/x/loss": 2.0}
    window.clear()
    window.add(torch.zeros(()), {source_loss("x"): (torch.tensor(0.0), torch.tensor(0.0))})
    assert means(window.over_ranks()) == {}


def test_batches_without_their_sources_are_an_error() -> None:
    batch = collate([[Doc([1, 2, 3], [1, 2, 3])]], LENGTH, 0)
    with pytest.raises(TrainingError, match="lacks source"):
        causal_lm_loss(tiny_model(), batch, sources=("a", "b"))
    causal_lm_loss(tiny_model(), batch, sources=("a",))
