"""Held-out conversations: which they are, what their loss is, what is said when training makes it worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_toys import tiny_chat, workspace
from torch.nn.functional import cross_entropy

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.errors import DataError
from luopan.recipe.parts import ChatSource
from luopan.recipe.sft_specs import SftSpec
from luopan.stages.common import save_model
from luopan.stages.conversations import chat_data
from luopan.stages.held_out import ALL, HeldOut, held_out_notes, held_prompts
from luopan.stages.sft import Sft
from luopan.tokens.example import IGNORE
from luopan.train.config import TrainConfig


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i} and {i}?", "completion": f"It is {2 * i}."} for i in range(start, start + count)]


def written(path: Path, content: list[dict[str, Any]]) -> ChatSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return ChatSource(path=str(path))


def test_about_as_many_as_wanted_and_at_most_a_fifth() -> None:
    prompts = [f"{i:04}" for i in range(1000)]
    assert len(held_prompts(prompts, 100)) == 100
    assert len(held_prompts(prompts, 900)) == 200
    assert held_prompts(prompts, 100) >= held_prompts(prompts, 50)
    assert held_prompts(["a"] * 5, 2) == set() and len(held_prompts(["a", "b"], 1)) == 1
    greetings = ["Hi"] * 90 + [str(i) for i in range(10)]
    assert len(held_prompts(greetings, 5)) == 5 and "Hi" not in held_prompts(greetings, 50)
    assert held_prompts(["a"] * 9 + ["b"], 3) == {"b"}


def test_no_prompt_is_on_both_sides_and_skills_stay(tokenizer, tmp_path: Path) -> None:
    several = [{**row, "completion": f"{row['completion']} {n}"} for row in rows(40) for n in (1, 2)]
    sources = [written(tmp_path / "a.jsonl", several), ChatSource(skill="identity", examples=30)]
    data = chat_data(tokenizer, sources, seed=1, max_length=96, test_conversations=12)

    def asked(example: Any) -> str:
        return tokenizer.decode([t for t, label in zip(example.input_ids, example.labels) if label == IGNORE])

    held, kept = {asked(example) for example in data.held}, {asked(example) for example in data.examples}
    assert len(data.held) == 12 and len(held) == 6 and not held & kept
    assert data.held_sources == ["a.jsonl"] * 12 and data.sources.count("identity") == 30
    assert data.rows == 110 and len(data.turns) == len(data.thinks) == len(data.examples) == 98
    again = chat_data(tokenizer, sources, seed=9, max_length=96, test_conversations=12)
    assert {asked(example) for example in again.held} == held
    one = written(tmp_path / "b.jsonl", [{**row, "prompt": "Well?"} for row in rows(9)])
    with pytest.raises(DataError, match="too few conversations have a prompt of their own"):
        chat_data(tokenizer, [one], seed=1, max_length=96, test_conversations=3)
    single = [written(tmp_path / f"{i}.jsonl", rows(1, 500 + i)) for i in range(20)]
    data = chat_data(tokenizer, [sources[0], *single], seed=1, max_length=96, test_conversations=20)
    assert len(set(data.sources)) == 21 and set(data.held_sources) == {"a.jsonl"}


def test_weights_hold_for_what_is_left(tokenizer, tmp_path: Path) -> None:
    few, many = written(tmp_path / "few.jsonl", rows(20)), written(tmp_path / "many.jsonl", rows(200, 100))
    sources = [few.model_copy(update={"weight": 1.0, "max_epochs": 2.0}), many.model_copy(update={"weight": 1.0})]
    data = chat_data(tokenizer, sources, seed=1, max_length=96, test_conversations=22)
    tokens = {
        name: sum(len(example) for example, source in zip(data.examples, data.sources) if source == name)
        for name in ("few.jsonl", "many.jsonl")
    }
    assert tokens["few.jsonl"] == pytest.approx(tokens["many.jsonl"], rel=0.1)
    trained = {tuple(example.input_ids) for example in data.examples}
    assert data.held and not trained & {tuple(example.input_ids) for example in data.held}


def test_the_loss_is_that_of_each_conversation_alone(tokenizer, tmp_path: Path) -> None:
    chat = tiny_chat()
    sources = [written(tmp_path / "a.jsonl", rows(40)), written(tmp_path / "b.jsonl", rows(40, 50))]
    data = chat_data(tokenizer, sources, seed=1, max_length=64, test_conversations=16)
    sums = dict.fromkeys(("a.jsonl", "b.jsonl"), (0.0, 0))
    for example, source in zip(data.held, data.held_sources, strict=True):
        with torch.no_grad():
            ids = torch.tensor([list(example.input_ids)])
            logits = chat.model(ids)[0]
        labels = torch.tensor(list(example.labels))
        nats = cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="sum")
        old = sums[source]
        sums[source] = old[0] + float(nats), old[1] + int((labels[1:] != IGNORE).sum())
    config = TrainConfig(max_steps=10, learning_rate=1e-3, per_device_train_batch_size=3)
    chat.model.train()
    loss = HeldOut(data.held, data.held_sources, 64, chat, config).loss(chat.model)
    assert chat.model.training
    for source, (nats, tokens) in sums.items():
        assert loss[source] == pytest.approx(nats / tokens, rel=1e-5)
    whole = sum(nats for nats, _ in sums.values()) / sum(tokens for _, tokens in sums.values())
    assert loss[ALL] == pytest.approx(whole, rel=1e-5)


def test_a_stage_tells_its_held_out_loss(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", rows(60))
    given = {"kind": "sft", "model": "base", "max_length": 64, "learning_rate": 3e-3, "max_steps": 40}
    spec = SftSpec(**given, data=(file,), test_conversations=10, per_device_train_batch_size=4)
    folder = tmp_path / "base"
    folder.mkdir()
    save_model(tiny_chat(), folder)
    write_manifest(folder, build_manifest(folder, kind="import", name="base", identity="x"))
    out = workspace(tmp_path / "sft")
    metrics = Sft.run(spec, {"model": (Artifact(folder),)}, out)
    assert metrics["after"]["held-out loss"] < metrics["before"]["held-out loss"]
    lines = [json.loads(line) for line in (out.path / "metrics.jsonl").read_text().splitlines()]
    measured = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(measured) == 20 and measured[-1] == pytest.approx(metrics["after"]["held-out loss"], rel=1e-6)
    report = json.loads((out.path / "stage_report.json").read_text())
    assert any("10 conversations are held out" in note["text"] for note in report["notes"])
    with pytest.raises(ValueError, match="no effect on skills"):
        SftSpec(**given, data=({"skill": "talk", "examples": 3},), test_conversations=5)


def test_learning_by_heart_is_said(tmp_path: Path) -> None:
    def notes(*losses: float) -> list[str]:
        lines = [{"step": 10 * i, "loss": 1.0, "held_out_loss": loss} for i, loss in enumerate(losses, 1)]
        text = "".join(json.dumps(line) + "\n" for line in [{"step": 1, "loss": 2.0}, *lines])
        (tmp_path / "metrics.jsonl").write_text(text)
        return [note.text for note in held_out_notes(tmp_path, 7) if note.level == "warning"]

    assert notes(2.0, 1.5, 1.505) == []
    [said] = notes(2.0, 1.5, 1.7)
    assert "lowest at step 20 (1.500) and is 1.700 at step 30" in said
