"""A fresh model of each shape, put to what a sound training must do: seconds each, on a narrow copy where it is large.

First loss near ln(vocabulary); a gradient for every parameter; one batch learnt by heart; one batch of eight rows equal
to four of two; packed documents equal to documents alone; saved, loaded, the same loss. Shapes above `WHOLE` parameters
are probed with two layers of their kind, which is told.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luopan.lab.checking.findings import Finding
from luopan.model.config import ModelConfig

WHOLE = 2e7
LENGTH, ROWS, VOCABULARY = 64, 8, 4096
OVERFIT_STEPS = 60


def probe(stage: str, config: ModelConfig) -> Iterator[Finding]:
    """Of the model of one stage."""
    from luopan.model.decoder import Decoder

    small = narrowed(config)
    model = Decoder(small)
    model.reset_parameters(0)
    batches = _batches(small)
    loss = _loss_of(model, batches)
    expected = math.log(small.vocab_size)
    ok = abs(loss / expected - 1) < 0.15
    yield Finding("first loss", "ok" if ok else "bad", f"{loss:.2f}, ln({small.vocab_size}) is {expected:.2f}",
                  "" if ok else "initializer_range is far from 0.02", stage)  # fmt: skip
    silent = _silent(model, batches)
    yield Finding("gradients", "bad" if silent else "ok", f"none for {', '.join(silent[:3])}" if silent else
                  "every parameter has one", "experts that get no token, or a branch that is cut off" if silent else "",
                  stage)  # fmt: skip
    yield _accumulation(stage, model, small)
    yield _packing(stage, model, small)
    yield _round_trip(stage, model, batches, loss)
    yield _by_heart(stage, model, small, expected)
    if small is not config:
        yield Finding("probes", "note", f"made on 2 layers and at most {VOCABULARY} tokens of the shape", stage=stage)


def narrowed(config: ModelConfig) -> ModelConfig:
    """The shape itself, or two layers of it with a small vocabulary."""
    if config.num_parameters() <= WHOLE:
        return config
    values = {**config.model_dump(exclude_unset=True), "num_hidden_layers": 2,
              "vocab_size": min(VOCABULARY, config.vocab_size)}  # fmt: skip
    for key in ("no_rope_layer_interval", "full_attention_interval", "decoder_sparse_step"):
        if values.get(key) is not None:
            values[key] = min(values[key], 2)  # a shape of two layers has one of either kind
    for key in ("no_rope_layers", "layer_types", "mlp_only_layers"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])[:2]
    return ModelConfig.model_validate(values)


def _rows(config: ModelConfig, seed: int = 0) -> list[Any]:
    import numpy as np

    from luopan.tokens.batch import Doc

    length = min(LENGTH, config.max_position_embeddings)
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (ROWS, length))
    return [Doc(row, row) for row in ids]


def _batches(config: ModelConfig) -> list[Any]:
    from luopan.tokens.batch import collate

    rows = _rows(config)
    return [collate([[row] for row in rows], len(rows[0]), 0)]


def _loss_of(model: Any, batches: list[Any]) -> float:
    import torch

    from luopan.train.losses import causal_lm_loss

    with torch.no_grad():
        terms = [causal_lm_loss(model, batch) for batch in batches]
    return float(sum(term.total for term in terms) / sum(term.weight for term in terms))


def _gradients(model: Any, batches: list[Any]) -> dict[str, Any]:
    from luopan.train.losses import causal_lm_loss

    model.zero_grad()
    weight = sum(float(batch.num_targets) for batch in batches)
    for batch in batches:
        (causal_lm_loss(model, batch).total / weight).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def _silent(model: Any, batches: list[Any]) -> list[str]:
    found = _gradients(model, batches)
    return [name for name, _ in model.named_parameters() if name not in found or not bool(found[name].any())]


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    largest = max(float(value.abs().max()) for value in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def _accumulation(stage: str, model: Any, config: ModelConfig) -> Finding:
    from luopan.tokens.batch import collate

    if any(config.moe_layers):
        return Finding("accumulation", "skipped", "experts balance over a micro-batch", stage=stage)
    rows = _rows(config)
    parts = [collate([[row] for row in rows[i : i + 2]], len(rows[0]), 0) for i in range(0, ROWS, 2)]
    off = _difference(_gradients(model, _batches(config)), _gradients(model, parts))
    ok = off < 1e-3
    return Finding("accumulation", "ok" if ok else "bad", f"1 × {ROWS} rows and 4 × 2 differ by {off:.1e}", stage=stage)


def _packing(stage: str, model: Any, config: ModelConfig) -> Finding:
    from luopan.tokens.batch import Doc, collate

    rows = _rows(config, 1)
    half = len(rows[0].input_ids) // 2
    docs = [Doc(row.input_ids[:half], row.labels[:half]) for row in rows[:4]]
    packed = [collate([docs[:2], docs[2:]], 2 * half, 0)]
    alone = [collate([[doc] for doc in docs], half, 0)]
    off = abs(_loss_of(model, packed) / _loss_of(model, alone) - 1)
    return Finding("packing", "ok" if off < 1e-4 else "bad", f"packed and alone differ by {off:.1e}", stage=stage)


def _round_trip(stage: str, model: Any, batches: list[Any], loss: float) -> Finding:
    from luopan.model import hf

    with tempfile.TemporaryDirectory() as place:
        hf.save(model, Path(place) / "model", architecture="auto")
        again = _loss_of(hf.load(Path(place) / "model"), batches)
    ok = abs(again - loss) < 1e-5 * max(1.0, loss)
    return Finding("save and load", "ok" if ok else "bad", f"loss {loss:.5f} and {again:.5f}", stage=stage)


def _by_heart(stage: str, model: Any, config: ModelConfig, start: float) -> Finding:
    import torch

    from luopan.tokens.batch import collate
    from luopan.train.losses import causal_lm_loss

    rows = _rows(config, 2)[:2]
    batch = collate([[row] for row in rows], len(rows[0]), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(OVERFIT_STEPS):
        optimizer.zero_grad()
        term = causal_lm_loss(model, batch)
        (term.total / term.weight).backward()
        optimizer.step()
    end = _loss_of(model, [batch])
    ok = end < 0.5 * start
    return Finding("learns by heart", "ok" if ok else "bad", f"{OVERFIT_STEPS} times one batch: {start:.2f}, {end:.2f}",
                   "" if ok else "the shape hardly learns: initialisation, norms, depth", stage)  # fmt: skip
