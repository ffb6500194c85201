"""Replay and forgetting: own answers trained as drawn and made once; what is measured tells a changed model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.errors import DataError, RecipeError
from luopan.generate.config import SamplingParams
from luopan.recipe.replay_specs import ForgettingSpec, ReplaySpec
from luopan.stages import replay
from luopan.stages.common import Chat
from luopan.stages.conversations import ChatData
from luopan.stages.forgetting import (
    check_forgetting,
    general_figures,
    general_notes,
    general_samples,
    measure_general,
    strays,
)
from luopan.stages.replay import Reply, add_replay, replay_examples, replay_prompts, replies
from luopan.tokens.batch import collate
from luopan.tokens.example import IGNORE, Example
from luopan.train.losses import causal_lm_loss

DRAWN = SamplingParams(max_new_tokens=6, temperature=1.0)
SPEC = ForgettingSpec(cases=6, max_new_tokens=6, text_bytes=600, strays=("Mira",))


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    folder = tmp_path / "run" / "start"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("1")
    manifest = build_manifest(folder, kind="import", name="start", identity="i", spec={}, inputs={})
    write_manifest(folder, manifest)
    return Artifact(folder)


def rough(chat: Chat, by: float = 0.3) -> Chat:
    """The model with its weights disturbed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in chat.model.parameters():
            weight += by * torch.randn_like(weight) * weight.std()
    return chat


def test_answers_are_made_once_and_depend_on_all_they_should(
    chat: Chat, source: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = workspace(tmp_path / "run" / "sft")
    prompts = replay_prompts("general", 5, "train")
    first = replies(chat, source, prompts, DRAWN, "train", out)
    assert len(first) == 5 and all(1 <= len(reply.answer) <= 6 for reply in first)
    changed = replies(chat, source, prompts, DRAWN.model_copy(update={"temperature": 0.5}), "train", out)
    assert changed != first
    assert replies(chat, source, prompts, DRAWN, "test", out) != first  # other random numbers
    monkeypatch.setattr(replay, "engine_of", None)  # from here on nothing can be generated
    assert replies(rough(tiny_chat()), source, prompts, DRAWN, "train", out) == first
    with pytest.raises(TypeError):
        replies(chat, source, prompts[:4], DRAWN, "train", out)


def test_only_the_answer_is_trained_and_a_cut_one_learns_no_end() -> None:
    stopped, cut = replay_examples([Reply([5, 6, 7], [8, 2], True), Reply([5], [9, 9], False)])
    assert stopped.input_ids == [5, 6, 7, 8, 2] and stopped.labels == [IGNORE, IGNORE, IGNORE, 8, 2]
    assert cut.labels == [IGNORE, 9, 9] and cut.num_trained == 2


def test_what_is_too_long_for_a_row_is_set_aside(chat: Chat, source: Artifact, tmp_path: Path) -> None:
    data = ChatData()
    out = workspace(tmp_path / "run" / "sft")
    loss = add_replay(data, chat, source, ReplaySpec(examples=8, max_new_tokens=6, kl_coef=0), 30, out)
    assert loss is causal_lm_loss
    assert data.set_aside and len(data.examples) + len(data.set_aside) == 8
    assert all(len(example) <= 30 for example in data.examples)
    assert "longer than max_length 30" in data.set_aside[0][1]
    assert data.sources == ["replay: general"] * len(data.examples)
    assert len(data.turns) == len(data.thinks) == len(data.examples)


def test_replayed_answers_are_tied_to_the_model_as_it_came(chat: Chat, source: Artifact, tmp_path: Path) -> None:
    out = workspace(tmp_path / "run" / "sft")
    taught = Example([5, 6, 7, 8], [IGNORE, IGNORE, 7, 8])
    data = ChatData([taught], ["skill"], [1], thinks=[False])
    loss = add_replay(data, chat, source, ReplaySpec(examples=4, max_new_tokens=6, kl_coef=2, top_k=9), 128, out)
    assert len(data.examples) == 5 and data.examples[0].labels == taught.labels
    batch = collate([data.examples], 256, 0)
    start = loss(chat.model, batch)
    usual = causal_lm_loss(chat.model, collate([[taught]], 8, 0))
    assert start.total.item() == pytest.approx(usual.total.item(), rel=1e-4)
    moved = loss(rough(chat).model, batch)
    assert moved.metrics["divergence"][0].item() > 0.1


def test_prompts_from_a_file_keep_their_sides_apart(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Question {number}"}, {"role": "assistant", "content": "No."}]}
        for number in range(200)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": []}, {"text": "x"}]))
    train, test = (replay_prompts(str(file), 999, side) for side in ("train", "test"))
    assert len(train) + len(test) == 200 and 8 <= len(test) <= 35
    assert all(messages[-1]["role"] == "user" for messages in (*train, *test))
    assert len(replay_prompts(str(file), 7, "train")) == 7
    file.write_text(json.dumps({"messages": [{"role": "assistant", "content": "Hello"}]}) + "\n")
    with pytest.raises(DataError, match="no prompt is on the train side"):
        replay_prompts(str(file), 3, "train")


def test_an_unchanged_model_is_unchanged_and_a_changed_one_is_not(chat: Chat, source: Artifact, tmp_path: Path) -> None:
    out = workspace(tmp_path / "run" / "sft")
    before = measure_general(chat, source, SPEC, out)
    assert measure_general(chat, source, SPEC, out) == before
    after = measure_general(rough(chat), source, SPEC, out)
    general, text, stray = general_figures(before, after, SPEC)
    assert general.after > general.before > 1 and general.n == before["general"][1]
    assert text.after != text.before and "python-docs" in text.help and stray.after == 0
    assert [note.level for note in general_notes(before, before, SPEC)] == ["good"]
    (warning,) = general_notes(before, after, SPEC)
    assert warning.level == "warning" and "more than 3%" in warning.text
    samples = general_samples(before, after, ("start", "sft"), limit=4)
    assert len(samples) == 4 and list(samples[0].answers) == ["start", "sft"]
    assert json.loads(json.dumps(before)) == before  # it is remembered as JSON


def test_answers_that_hold_the_taught_name_are_counted() -> None:
    result: dict[str, Any] = {
        "answers": [["I am Mira.", "stop"], ["miracles", "stop"], ["Paris", "length"], ["", "stop"]]
    }
    assert strays(result, SPEC) == 0.25
    assert strays(result, replace_strays("Paris", "Mira")) == 0.5


def replace_strays(*words: str) -> ForgettingSpec:
    return SPEC.model_copy(update={"strays": words})


def test_without_a_text_there_is_one_perplexity(chat: Chat, source: Artifact, tmp_path: Path) -> None:
    spec = ForgettingSpec(cases=3, max_new_tokens=4, text=None)
    found = measure_general(chat, source, spec, workspace(tmp_path / "run" / "sft"))
    assert found["text"] is None
    assert [figure.name for figure in general_figures(found, found, spec)] == ["perplexity, general prompts"]


def test_mistakes_are_said_before_compute(tmp_path: Path) -> None:
    check_forgetting(ReplaySpec(examples=3), ForgettingSpec())
    check_forgetting(None, None)
    with pytest.raises(RecipeError, match="no packaged text 'poems'"):
        check_forgetting(None, ForgettingSpec(text="poems"))
    with pytest.raises(DataError, match="no such file"):
        check_forgetting(ReplaySpec(examples=3, prompts=str(tmp_path / "none.jsonl")), None)
    with pytest.raises(ValidationError, match="text_bytes has no effect"):
        ForgettingSpec(text=None, text_bytes=5)
    with pytest.raises(ValidationError, match="empty word"):
        ForgettingSpec(strays=("",))
    with pytest.raises(ValidationError, match="temprature"):
        ReplaySpec.model_validate({"examples": 3, "temprature": 0})
    with pytest.raises(ValidationError, match="top_k has no effect"):
        ReplaySpec(examples=3, kl_coef=0, top_k=5)
