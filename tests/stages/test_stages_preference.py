"""Preference pairs: read from a file or made, encoded whole, the reference's scores, and the win rate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_toys import tiny_chat

from luopan.errors import DataError
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.stages import preference
from luopan.stages.common import Chat
from luopan.stages.packed import PackedFeed, pack_pairs
from luopan.stages.preference import encode_pairs, sampled_answers, wins
from luopan.tokens.batch import collate
from luopan.train.config import TrainConfig
from luopan.train.losses import sequence_logprobs

TALK = [{"role": "user", "content": "Hello!"}]


def spec(**changes: Any) -> PreferenceSpec:
    values = {"kind": "preference", "model": "a", "max_length": 96, "learning_rate": 1e-3, "max_steps": 2, **changes}
    return PreferenceSpec(**({"pairs": 6, "test_pairs": 4} | values if "path" not in values else values))


def file_of(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_win_rate_by_hand() -> None:
    before, after = [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.5]
    assert wins(before, after) == [0.0, 0.5, 1.0, 1.0]  # lost, tied, won, won
    parts: dict[str, Any] = {"ranked": 0.5, "margin": 0.0, "pairs": 4, "suite": {"tests": {}, "total": {}}}
    old, new = ({**parts, "flawless": values, "right": values} for values in (before, after))
    figures = {figure.name: figure for figure in preference._figures(old, new)}
    rate = figures["win rate over its input"]
    assert (rate.before, rate.after, rate.n) == (0.5, 2.5 / 4, 4)
    # deviations from 0.625: -.625 -.125 .375 .375; squares sum to 0.6875; sqrt(0.6875 / 3 / 4)
    assert rate.stderr_after == pytest.approx((0.6875 / 12) ** 0.5)
    flawless = figures["answers without the flaw"]
    assert (flawless.before, flawless.after) == (0.5, 0.625)


# ---- reading ----


def test_rows_in_all_their_forms_make_the_same_pair(tmp_path: Path) -> None:
    yes, no = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
    forms = [
        {"messages": TALK, "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Hello!", "chosen": "Yes.", "rejected": "No."},
        {"prompt": TALK, "chosen": [yes], "rejected": [no]},
        {"chosen": [*TALK, yes], "rejected": [*TALK, no]},
    ]
    bad = ["{oops", {"prompt": "Hello!", "chosen": "Yes."}, {"chosen": "Yes.", "rejected": "No."}]
    others = [{"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(6)]
    path = file_of(tmp_path / "pairs.jsonl", [*forms, *bad, *others])
    aside: list[tuple[str, str]] = []
    train, test = preference._pairs(spec(path=path), 0, aside)
    assert len(train) + len(test) == 10
    hello = [pair for pair in [*train, *test] if pair.prompt[0]["content"] == "Hello!"]
    assert len(hello) == 4 and len({str(list(pair.prompt)) for pair in hello}) == 1
    assert {(pair.chosen["content"], pair.rejected["content"]) for pair in hello} == {("Yes.", "No.")}
    sides = [{pair.prompt[0]["content"] for pair in side} for side in (train, test)]
    assert sides[1] and not sides[0] & sides[1]  # a prompt with several pairs is on one side only
    assert [where for where, _ in aside] == [f"{path}:{line}" for line in (5, 6, 7)]
    assert "not JSON" in aside[0][1] and "`rejected`" in aside[1][1] and "no prompt" in aside[2][1]


def test_too_few_pairs_to_hold_some_out(tmp_path: Path) -> None:
    path = file_of(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4)
    with pytest.raises(DataError, match="4 pairs are too few"):
        preference._pairs(spec(path=path), 0, [])


def test_made_pairs_for_training_and_testing_share_no_question() -> None:
    train, test = preference._pairs(spec(pairs=200, test_pairs=20), 0, [])
    questions = [{pair.prompt[-1]["content"] for pair in pairs} for pairs in (train, test)]
    assert len(train) == 200 and not questions[0] & questions[1]
    assert all(pair.rejected["content"].startswith(pair.chosen["content"]) for pair in train)


# ---- encoding and scoring ----


def test_a_pair_is_left_out_whole_and_only_answers_are_trained(chat: Chat) -> None:
    train, _ = preference._pairs(spec(), 0, [])
    broken = replace(train[0], rejected={"role": "assistant", "content": "so " * 300})
    aside: list[tuple[str, str]] = []
    pairs = encode_pairs(chat, [train[1], broken, train[2]], 96, aside)
    assert len(pairs) == 2 and len(aside) == 1 and aside[0][0] == "pair #0"
    assert aside[0][1].startswith("rejected: ") and "longer than" in aside[0][1]
    for (chosen, rejected), made in zip(pairs, (train[1], train[2])):
        for example, reply in ((chosen, made.chosen), (rejected, made.rejected)):
            trained = chat.tokenizer.decode([label for label in example.labels if label != -100])
            assert trained == f"{reply['content']}<|im_end|>"
    with pytest.raises(DataError, match="no preference pair is left"):
        encode_pairs(chat, [broken], 96, [])


def test_the_references_scores_belong_to_their_pairs(chat: Chat) -> None:
    train, _ = preference._pairs(spec(pairs=80), 0, [])
    pairs = encode_pairs(chat, train, 96, [])
    scores = preference._scores(chat, pairs, spec())
    assert len(scores) == len(pairs) > 64  # more than are scored at once
    for number in (0, 33, len(pairs) - 1):
        for side in (0, 1):
            with torch.no_grad():
                alone = sequence_logprobs(chat.model, collate([[pairs[number][side]]], 96, chat.pad_id))
            assert scores[number][side] == pytest.approx(float(alone[0]), abs=1e-3)
    rows = pack_pairs(preference._with_reference(pairs, scores), 192)
    config = TrainConfig(learning_rate=1e-3, max_steps=1, per_device_train_batch_size=len(rows))
    feed = PackedFeed(rows, 192, chat.pad_id, config, 0, count_pairs=True)
    (batch,) = feed.micro_batches(0)
    with torch.no_grad():
        packed = sequence_logprobs(chat.model, batch)
    assert float((packed - batch.per_document["reference_logprob"]).abs().max()) < 1e-3


def test_the_measurement_of_a_model_against_itself(chat: Chat) -> None:
    train, _ = preference._pairs(spec(), 0, [])
    pairs = encode_pairs(chat, train, 96, [])
    knobs = spec(flaw_cases=0)
    scores = preference._scores(chat, pairs, knobs)
    own = preference._measure(chat, knobs, pairs, scores)
    assert own["margin"] == pytest.approx(0, abs=1e-4) and own["pairs"] == 6 and "flawless" not in own
    shifted = preference._measure(chat, knobs, pairs, [[chosen - 2, rejected - 0.5] for chosen, rejected in scores])
    assert shifted["margin"] == pytest.approx(1.5, abs=1e-4)
    assert own["ranked"] == sum(chosen > rejected for chosen, rejected in scores) / 6


def test_sampled_answers_are_the_same_questions_before_and_after(chat: Chat) -> None:
    knobs = spec(flaw_cases=8)
    first, again = sampled_answers(chat, knobs), sampled_answers(chat, knobs)
    assert first == again and {len(values) for values in first.values()} == {8}
    assert set(first["flawless"]) <= {0.0, 1.0}
    assert sampled_answers(tiny_chat(seed=5), knobs)["right"] is not None


def test_one_flaw_case(chat: Chat) -> None:
    train, _ = preference._pairs(spec(), 0, [])
    knobs = spec(flaw_cases=1)
    pairs = encode_pairs(chat, train, 96, [])
    measured = preference._measure(chat, knobs, pairs, preference._scores(chat, pairs, knobs))
    suite: dict[str, Any] = {"suite": {"tests": {}, "total": {}, "transcripts": []}}
    preference._figures({**measured, **suite}, {**measured, **suite})


def test_a_pair_that_is_too_long_is_named_by_file_and_line(chat: Chat, tmp_path: Path) -> None:
    fine = {"prompt": "Hello!", "chosen": "Yes.", "rejected": "No."}
    more = [{**fine, "prompt": f"Question {i}?"} for i in range(8)]
    path = file_of(
        tmp_path / "pairs.jsonl", [fine, {**fine, "prompt": "Again?", "chosen": "so " * 300}, *[fine] * 6, *more]
    )
    aside: list[tuple[str, str]] = []
    train, test = preference._pairs(spec(path=path), 0, aside)
    encode_pairs(chat, [*train, *test], 96, aside)
    assert [where for where, _ in aside] == [f"{path}:2"]
