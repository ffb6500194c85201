"""A folder with what the documentation's examples name: some texts, some conversations, a run with a random model."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

WORDS = """
the of and to that have with be a in it is was for on are as at this from they we not but what all were when your can
said there use an each which she do how their if will up other about out many then them these so some her would make
like him into time has look two more write go see number no way could people my than first water been
"""


def sentences(draw: random.Random, count: int) -> str:
    """Plain made-up sentences that every filter lets pass."""
    words = WORDS.split()
    return " ".join(" ".join(draw.sample(words, 9)).capitalize() + "." for _ in range(count))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`texts/`, `talks.jsonl`, `book.txt`, and `runs/quickstart/` with a tokenizer and models that know nothing."""
    from luopan.model import hf
    from luopan.model.config import ModelConfig
    from luopan.model.decoder import Decoder
    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

    folder, draw = tmp_path_factory.mktemp("world"), random.Random(0)
    texts = folder / "texts"
    texts.mkdir()
    for number in range(40):
        paragraphs = [sentences(draw, 5) for _ in range(4)]
        (texts / f"page-{number:02d}.txt").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    (folder / "book.txt").write_text(sentences(draw, 60) + "\n", encoding="utf-8")
    talks = [
        {"messages": [{"role": "user", "content": f"What is {a} + 1?"}, {"role": "assistant", "content": str(a + 1)}]}
        for a in range(5)
    ]
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")

    tokenizer = train_tokenizer([page.read_text() for page in sorted(texts.iterdir())], TokenizerConfig(vocab_size=512))
    model = Decoder(
        ModelConfig(
            vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=256,
        )
    )  # fmt: skip
    run = folder / "runs" / "quickstart"
    save_tokenizer(tokenizer, run / "tokenizer" / "tokenizer")
    for stage in ("pretrain", "sft", "grpo"):
        hf.save(model, run / stage / "model")
        save_tokenizer(tokenizer, run / stage / "model")
    return folder


@pytest.fixture
def place(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world to work in; the current folder of the test."""
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    return folder
