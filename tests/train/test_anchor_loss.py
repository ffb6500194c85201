"""Taught and anchored tokens in one batch: each gets its own loss, sums add up, training holds the anchored ones."""

from __future__ import annotations

import pytest
import torch

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import collate
from luopan.tokens.example import IGNORE, Example
from luopan.train.anchor_loss import ANCHOR, anchor_loss, take_anchor, without_anchor
from luopan.train.losses import causal_lm_loss


def tiny_model() -> Decoder:
    config = ModelConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=32, initializer_range=0.2)  # fmt: skip
    model = Decoder(config)
    model.reset_parameters(5)
    return model


def example(seed: int, prompt: int, answer: int) -> Example:
    ids = torch.randint(1, 40, (prompt + answer,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(ids, [IGNORE] * prompt + ids[prompt:])


KEPT = [example(seed, 3, 5 + seed) for seed in range(3)]
TAUGHT = [example(seed, 4, 3) for seed in range(10, 13)]


def test_at_the_start_only_what_is_taught_costs_anything() -> None:
    model = tiny_model()
    anchor, kept = take_anchor(model, KEPT, 8)
    assert anchor.ids.shape == (5 + 6 + 7, 8)
    found = anchor_loss(model, collate([[*kept, *map(without_anchor, TAUGHT)]], 64, 0), anchor=anchor, coef=3.0)
    taught = causal_lm_loss(model, collate([TAUGHT], 64, 0))
    assert float(found.total) == pytest.approx(float(taught.total), abs=1e-4)
    assert float(found.weight) == 18 + 9 and float(found.metrics["cross_entropy"][1]) == 9
    assert float(found.metrics["divergence"][0]) == pytest.approx(0, abs=1e-4)


def test_places_hold_whatever_the_order_and_rows_add_up() -> None:
    model = tiny_model()
    anchor, kept = take_anchor(model, KEPT, 40)
    other = tiny_model()
    other.reset_parameters(6)
    documents = [*map(without_anchor, TAUGHT), *kept]
    rows = [documents[::-1][:3], documents[::-1][3:]]
    whole = anchor_loss(other, collate(rows, 48, 0), anchor=anchor, coef=0.5)
    parts = [anchor_loss(other, collate([row], 48, 0), anchor=anchor, coef=0.5) for row in rows]
    assert float(whole.total) == pytest.approx(sum(float(part.total) for part in parts), rel=1e-5)
    assert float(whole.weight) == sum(float(part.weight) for part in parts)
    wanted = 0.0
    for kept_example in KEPT:
        ids, start = torch.tensor([kept_example.input_ids]), kept_example.labels.count(IGNORE)
        p, q = (m(ids)[0, start - 1 : -1].log_softmax(-1) for m in (model, other))
        wanted += float((p.exp() * (p - q)).sum())
    assert float(whole.metrics["divergence"][0]) == pytest.approx(wanted, rel=1e-4)


def test_without_anchored_tokens_it_is_the_usual_loss() -> None:
    model = tiny_model()
    anchor, _ = take_anchor(model, KEPT[:1], 4)
    found = anchor_loss(model, collate([list(map(without_anchor, TAUGHT))], 32, 0), anchor=anchor, coef=9.0)
    usual = causal_lm_loss(model, collate([TAUGHT], 32, 0))
    assert float(found.total) == pytest.approx(float(usual.total), rel=1e-6) and float(found.weight) == float(
        usual.weight
    )


def test_training_with_it_moves_the_kept_answers_less() -> None:
    def moved(coef: float) -> float:
        model = tiny_model()
        anchor, kept = take_anchor(model, KEPT, 8)
        batch = collate([[*kept, *map(without_anchor, TAUGHT)]], 64, 0)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            term = anchor_loss(model, batch, anchor=anchor, coef=coef)
            (term.total / term.weight).backward()
            optimizer.step()
        with torch.no_grad():
            last = anchor_loss(model, batch, anchor=anchor, coef=coef)
        assert float(last.metrics["cross_entropy"][0]) / 9 < 1.5
        return float(last.metrics["divergence"][0])

    assert moved(3.0) < 0.2 * moved(0.0)


def test_every_document_carries_the_value() -> None:
    _, kept = take_anchor(tiny_model(), KEPT[:1], 4)
    assert list(kept[0].per_token[ANCHOR]) == [0, 0, 0, 1, 2, 3, 4, 5]
    assert list(without_anchor(TAUGHT[0]).per_token[ANCHOR]) == [0] * 7
