"""A tiny model with a chat template, as a finished stage of a run; it answers with noise."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/trial` with the stages `tokenizer` (a tokenizer) and `sft` (a model made of it)."""
    from luopan.artifacts import Artifact, build_manifest, write_manifest
    from luopan.model import hf
    from luopan.model.config import ModelConfig
    from luopan.model.decoder import Decoder
    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

    run = tmp_path_factory.mktemp("runs") / "trial"
    texts = [Path(__file__).read_text(encoding="utf-8")] * 20
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=384, min_frequency=1))
    save_tokenizer(tokenizer, run / "tokenizer" / "tokenizer")
    first = build_manifest(run / "tokenizer", kind="tokenizer", name="tokenizer", identity="a" * 64)
    write_manifest(run / "tokenizer", first)
    config = ModelConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    model = Decoder(config)
    model.reset_parameters(0)
    hf.save(model, run / "sft" / "model")
    save_tokenizer(tokenizer, run / "sft" / "model")
    record = Artifact(run / "tokenizer").as_input().model_copy(update={"path": "../tokenizer"})
    second = build_manifest(
        run / "sft",
        kind="sft",
        name="sft",
        identity="b" * 64,
        inputs={"tokenizer": record},
        versions={"python": "3"},
        metrics={"before": {"accuracy": 0.25}, "after": {"accuracy": 0.5}},
    )
    write_manifest(run / "sft", second)
    (run / "recipe.lock.yaml").write_text("name: trial\n")
    return run
