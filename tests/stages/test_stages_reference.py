"""The reference of preference optimisation: kept on the disk, never the policy; and the rows that KTO reads."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.errors import Interrupted, RecipeError
from luopan.model import hf
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.stages import reference
from luopan.stages.common import Chat, save_model
from luopan.stages.packed import PackedFeed
from luopan.stages.preference import Preference, loss_of, prepare
from luopan.stages.preference_data import Answer, encode_pairs, labelled_rows, load_pairs, pair_rows
from luopan.stages.reference import reference_logprobs
from luopan.tokens.example import IGNORE, Example
from luopan.train.config import TrainConfig
from luopan.train.losses import preference_loss

CONFIG = TrainConfig(learning_rate=1e-3, max_steps=1)


def spec(**changes: Any) -> PreferenceSpec:
    values = {"pairs": 6, "test_pairs": 4, "max_length": 96, "learning_rate": 1e-3, "max_steps": 2, "flaw_cases": 0}
    return PreferenceSpec(kind="preference", model="a", **{**values, **changes})


def source(folder: Path, chat: Chat) -> Artifact:
    folder.mkdir(parents=True)
    save_model(chat, folder)
    write_manifest(folder, build_manifest(folder, kind="sft", name="sft", identity="x"))
    return Artifact(folder)


def few_rows(chat: Chat) -> list[list[Example]]:
    pairs, _ = load_pairs((), 6, "rude", 4, 0, [], [])
    return pair_rows(encode_pairs(chat.tokenizer, pairs, 96, []), 192, share=True)


# ---- on the disk ----


def test_it_is_found_again(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, artifact, out = few_rows(chat), source(tmp_path / "sft", chat), workspace(tmp_path / "run" / "x")
    counted: list[int] = []
    score = reference.score_rows

    def counting(*given: Any) -> list[list[float]]:
        counted.append(1)
        return score(*given)

    monkeypatch.setattr(reference, "score_rows", counting)
    first = reference_logprobs(chat, artifact, rows, CONFIG, out)
    for changed in ({"learning_rate": 5e-3}, {"max_steps": 99}):  # a sweep over these computes it once
        assert reference_logprobs(chat, artifact, rows, CONFIG.model_copy(update=changed), out) == first
    assert len(counted) == 1
    other = source(tmp_path / "other", tiny_chat(seed=9))
    reference_logprobs(tiny_chat(seed=9), other, rows, CONFIG, out)  # other weights
    reference_logprobs(chat, artifact, rows[:1], CONFIG, out)  # other rows
    reference_logprobs(chat, artifact, rows, CONFIG, out, "int8")  # the same weights in eight bits
    assert len(counted) == 4 and len(list((out.cache / "reference").iterdir())) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "other"])
def test_a_damaged_file_is_made_again_and_that_is_said(chat: Chat, tmp_path: Path, damage: str) -> None:
    rows, artifact, out = few_rows(chat), source(tmp_path / "sft", chat), workspace(tmp_path / "run" / "x")
    first = reference_logprobs(chat, artifact, rows, CONFIG, out)
    (file,) = (out.cache / "reference").iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 1  # the last bits of a number: finite, plausible and wrong
    file.write_bytes({"flip": bytes(content), "truncate": bytes(content[:-8]), "other": b"\x93NUMPY"}[damage])
    notes: list[str] = out.progress.notes  # type: ignore[attr-defined]
    assert not notes
    assert reference_logprobs(chat, artifact, rows, CONFIG, out) == first
    assert len(notes) == 1 and "damaged" in notes[0]
    content = bytearray(file.read_bytes())
    assert hashlib.sha256(content[32:]).digest() == content[:32] and not np.isnan(np.frombuffer(content[32:])).any()


# ---- never the policy ----


@pytest.mark.parametrize("knobs", [{}, {"adapter": {"r": 4}}, {"loss_type": "kto"}], ids=["full", "adapter", "kto"])
def test_resumed_without_its_cache_it_is_still_the_input(tmp_path: Path, knobs: dict[str, Any]) -> None:
    """Mini-LLM, LLaMA-Factory#4810: after a resume the half-trained policy is taken for the reference."""
    knob = spec(pairs=40, learning_rate=5e-3, max_steps=12, save_steps=4, per_device_train_batch_size=2, **knobs)
    inputs = {"model": (source(tmp_path / "sft", tiny_chat(context=192)),)}
    alone = workspace(tmp_path / "alone" / "preference")
    Preference.run(knob, inputs, alone)
    stopped = workspace(tmp_path / "stopped" / "preference")
    (alone.path.parent / ".cache").rename(stopped.cache)
    with pytest.raises(Interrupted):
        Preference.run(knob, inputs, replace(stopped, stop_at=time.monotonic() + 0.05))
    assert list((stopped.path / "checkpoints").iterdir())
    shutil.rmtree(stopped.cache)
    Preference.run(knob, inputs, stopped)
    one, two = (hf.load(out.path / "model") for out in (alone, stopped))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_first_step_starts_from_a_margin_of_zero(chat: Chat, tmp_path: Path) -> None:
    """The reference is scored as the policy is trained: row by row, in the same precision."""
    knob = spec(pairs=20)
    artifact, out = source(tmp_path / "sft", chat), workspace(tmp_path / "run" / "x")
    answers = prepare(chat, knob, out)
    scores = reference_logprobs(chat, artifact, answers.train, CONFIG, out)
    config = CONFIG.model_copy(update={"per_device_train_batch_size": len(answers.train)})
    rows = reference.with_reference(answers.train, scores)
    (batch,) = PackedFeed(rows, answers.capacity, chat.pad_id, config, 0, count_pairs=True).micro_batches(0)
    total, count = preference_loss(chat.model, batch, beta=0.1).metrics["rewards/margins"]
    assert count == answers.count > 10 and abs(float(total / count)) < 1e-4


def test_a_reference_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    mine, other = tiny_chat(context=192), tiny_chat(seed=4, context=192)
    inputs = {"model": (source(tmp_path / "sft", mine),), "reference": (source(tmp_path / "other", other),)}
    file = tmp_path / "other" / "model" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]  # as many tokens, two of them with each other's number
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RecipeError, match="another tokenizer"):
        Preference.run(spec(reference="other"), inputs, workspace(tmp_path / "run" / "preference"))


def test_a_gamma_of_zero_is_not_its_default() -> None:
    loss = loss_of(spec(loss_type="simpo", beta=2.0, simpo_gamma=0.0))
    assert isinstance(loss, partial) and loss.keywords["simpo_gamma"] == 0.0
    with pytest.raises(ValueError, match="simpo needs a beta of its own"):
        spec(loss_type="simpo")


# ---- the rows of KTO ----


def answer(prompt: int, length: int, words: int) -> Answer:
    """A prompt of four tokens `prompt` with an answer of `length` tokens `words`."""
    return Answer(Example([prompt] * 4 + [words] * length, [IGNORE] * 4 + [words] * length), 4)


def mixed(row: list[Example]) -> list[tuple[int, int]]:
    """(prompt, word) of the mismatched documents."""
    return [(doc.input_ids[0], doc.input_ids[-1]) for doc in row if doc.fields["mismatched"]]


def test_no_prompt_gets_an_answer_to_itself() -> None:
    # The halves of two pairs, of one length: moved on by one place, half of them would stay with their own prompt.
    answers = [(answer(1, 3, 11), True), (answer(1, 3, 12), False), (answer(2, 3, 21), True), (answer(2, 3, 22), False)]
    (row,) = labelled_rows(answers, 100, 50, share=False)
    assert mixed(row) == [(1, 21), (1, 22), (2, 11), (2, 12)]  # the same answers on both sides
    (row,) = labelled_rows([*answers[:2], (answer(2, 3, 21), True)], 100, 50, share=False)
    assert mixed(row) == [(1, 21), (2, 11)] or all(prompt != word // 10 for prompt, word in mixed(row))
    assert not mixed(labelled_rows(answers[:2], 100, 50, share=False)[0])  # one prompt only
    assert not mixed(labelled_rows(answers[:1], 100, 50, share=False)[0])


def test_rows_without_an_estimate_are_counted(chat: Chat, tmp_path: Path) -> None:
    for pairs, rows in ((1, 1), (20, 0)):
        answers = prepare(chat, spec(pairs=pairs, loss_type="kto"), workspace(tmp_path / str(pairs)))
        assert sum(not mixed(row) for row in answers.train) == rows
        said = [note for note in answers.notes if "single prompt" in note]
        assert said == ["1 of 1 rows hold answers to a single prompt: the KL in them counts as 0"] * rows
