"""A finished run with a tiny model, for the tests of exports."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import yaml

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.chat import stop_ids
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

CARD = {
    "found": {"documents": 120, "bytes": 9000},
    "documents": {"train": 100, "held_out": 5},
    "tokens_by": {"counted": False},
    "languages": {"en": {"documents": 100, "bytes": 8000}, "unknown": {"documents": 5, "bytes": 100}},
    "made_by": {"luopan": "0.1.0", "settings": {"max_source_bytes": 1000}},
    "sources": {
        "books": {
            "licence": "public domain", "origin": "/home/someone/secret/books", "version": "",
            "documents": {"train": 90}, "bytes": {"train": 7000}, "tokens": {"train": 1750},
        },
        "made": {"licence": "", "origin": "generated", "version": "", "documents": {"train": 10}},
    },
}  # fmt: skip
FIGURES: list[dict[str, Any]] = [
    {"name": "skills, mean", "before": 0.1, "after": 0.625, "stderr_after": 0.05, "n": 96, "unit": "%",
     "headline": True, "help": "with a <think> block | and more"},
    {"name": "bits per byte", "before": 2.0, "after": 1.5, "unit": "bits/byte", "headline": False},
]  # fmt: skip


def make_run(run: Path, whitespace: str = "lines", **settings: Any) -> Path:
    """`run` with the stages `curate` and `sft`; returns the latter."""
    corpus, sft = run / "curate", run / "sft"
    (corpus / "corpus").mkdir(parents=True)
    (corpus / "corpus" / "card.json").write_text(json.dumps(CARD))
    write_manifest(corpus, build_manifest(corpus, kind="curate", name="curate", identity="a" * 64))
    texts = [*pydoc_data.topics.topics.values()][:60]
    config = TokenizerConfig(vocab_size=512, whitespace=whitespace)  # type: ignore[arg-type]
    tokenizer = train_tokenizer([*texts, "a\n\n\nb" * 50], config)
    shape = {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 128, "qk_norm": True, **settings,
    }  # fmt: skip
    model = Decoder(ModelConfig.model_validate(shape))
    model.reset_parameters(0)
    hf.save(model, sft / "model", architecture="auto", eos_token_id=stop_ids(tokenizer), pad_token_id=3)
    save_tokenizer(tokenizer, sft / "model")
    (sft / "stage_report.json").write_text(json.dumps({"kind": "sft", "name": "sft", "figures": FIGURES}))
    (sft / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "loss": {5 - n / 10}}}\n' for n in range(30)))
    record = Artifact(corpus).as_input().model_copy(update={"path": "../curate"})
    write_manifest(
        sft,
        build_manifest(
            sft, kind="sft", name="sft", identity="b" * 64, inputs={"corpus": record}, seconds=12.0,
            versions={"luopan": "0.1.0"}, metrics={"tokens": 12345, "parameters": 4242},
            spec={"learning_rate": 1e-3, "num_train_epochs": 2.0, "max_length": None, "data": [
                {"dataset": "owner/chats", "split": "train", "fraction": 0.5},
                {"path": "/home/someone/secret/chats.jsonl"},
                {"skill": "addition", "examples": 900},
            ]},
        ),
    )  # fmt: skip
    recipe = {
        "name": "toy",
        "description": "A toy.",
        "seed": 7,
        "stages": {"report": {"limits": ["It knows nothing."]}},
    }
    (run / "recipe.lock.yaml").write_text(yaml.safe_dump(recipe))
    return sft
