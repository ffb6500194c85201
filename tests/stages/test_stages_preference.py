"""Preference answers: read or made, encoded whole, scored by the reference, judged; stages of every kind of loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.errors import DataError
from luopan.model import hf
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.stages.common import Chat, save_model
from luopan.stages.packed import PackedFeed
from luopan.stages.preference import Preference
from luopan.stages.preference_data import (
    Aside,
    encode_labelled,
    encode_pairs,
    labelled_rows,
    load_pairs,
    load_unpaired,
    pair_rows,
)
from luopan.stages.preference_figures import drift, judged, preference_figures, sampled_answers, wins
from luopan.stages.reference import reference_logprobs, score_rows, with_reference
from luopan.tokens.batch import collate
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.formats import Extras, PairRow
from luopan.train.config import TrainConfig
from luopan.train.losses import sequence_logprobs

TALK = [{"role": "user", "content": "Hello!"}]
CONFIG = TrainConfig(learning_rate=1e-3, max_steps=1)


def spec(**changes: Any) -> PreferenceSpec:
    values = {"kind": "preference", "model": "a", "max_length": 96, "learning_rate": 1e-3, "max_steps": 2, **changes}
    return PreferenceSpec(**({"pairs": 6, "test_pairs": 4} | values if "data" not in values else values))


def loaded(knobs: PreferenceSpec, aside: Aside | None = None) -> tuple[list[PairRow], list[PairRow]]:
    found = aside if aside is not None else []
    return load_pairs(knobs.data, knobs.pairs, knobs.flaw, knobs.test_pairs, 0, found, [])


def file_of(path: Path, rows: list[Any]) -> tuple[dict[str, str], ...]:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return ({"path": str(path)},)


def source(folder: Path, chat: Chat) -> Artifact:
    folder.mkdir(parents=True)
    save_model(chat, folder)
    write_manifest(folder, build_manifest(folder, kind="sft", name="sft", identity="x"))
    return Artifact(folder)


def test_win_rate_by_hand() -> None:
    before, after = [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.5]
    assert wins(before, after) == [0.0, 0.5, 1.0, 1.0]  # lost, tied, won, won
    parts: dict[str, Any] = {"ranked": 0.5, "margin": 0.0, "pairs": 4, "n": 8, "suite": {"tests": {}, "total": {}}}
    old, new = ({**parts, "flawless": values, "right": values} for values in (before, after))
    figures = {figure.name: figure for figure in preference_figures(old, new, referenced=True)}
    rate = figures["win rate over its input"]
    assert (rate.before, rate.after, rate.n) == (0.5, 2.5 / 4, 4)
    # deviations from 0.625: -.625 -.125 .375 .375; squares sum to 0.6875; sqrt(0.6875 / 3 / 4)
    assert rate.stderr_after == pytest.approx((0.6875 / 12) ** 0.5)
    flawless = figures["answers without the flaw"]
    assert (flawless.before, flawless.after) == (0.5, 0.625)


# ---- reading ----


def test_rows_in_all_their_forms_make_the_same_pair_which_is_used_once(tmp_path: Path) -> None:
    yes, no = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
    forms = [
        {"messages": TALK, "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Hello!", "chosen": "Yes.", "rejected": "No."},
        {"prompt": TALK, "chosen": [yes], "rejected": [no]},
        {"chosen": [*TALK, yes], "rejected": [*TALK, no]},
        {"chosen": "\n\nHuman: Hello!\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hello!\n\nAssistant: No."},
        {"conversations": [{"from": "human", "value": "Hello!"}], "chosen": {"from": "gpt", "value": "Yes."},
         "rejected": {"from": "gpt", "value": "No."}},
    ]  # fmt: skip
    same = {"prompt": "Hello!", "chosen": "Yes.", "rejected": "Yes."}
    bad = ["{oops", {"prompt": "Hello!", "chosen": "Yes."}, {"chosen": "Yes.", "rejected": "No."}, same]
    others = [{"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(6)]
    another = {"prompt": "Hello!", "chosen": "Yes.", "rejected": "Never."}
    data = file_of(tmp_path / "pairs.jsonl", [*forms, *bad, *others, another])
    aside: Aside = []
    train, test = loaded(spec(data=data), aside)
    assert len(train) + len(test) == 8
    hello = [pair for pair in [*train, *test] if pair.prompt[0]["content"] == "Hello!"]
    answers = [(pair.chosen[0]["content"], pair.rejected[0]["content"]) for pair in hello]
    assert answers == [("Yes.", "No."), ("Yes.", "Never.")]
    again = [(where, reason) for where, reason in aside if "already" in reason]
    place = data[0]["path"]
    assert again == [(f"{place}:{line}", f"is said already in {place}:1") for line in (2, 3, 4, 5, 6)]
    aside = [item for item in aside if item not in again]
    sides = [{pair.prompt[0]["content"] for pair in side} for side in (train, test)]
    assert sides[1] and not sides[0] & sides[1]  # a prompt with several pairs is on one side only
    assert [where for where, _ in aside] == [f"{data[0]['path']}:{line}" for line in (7, 8, 9, 10)]
    assert "not JSON" in aside[0][1] and "`rejected`" in aside[1][1] and "no prompt" in aside[2][1]
    assert "are the same" in aside[3][1]


def test_too_few_pairs_to_hold_some_out(tmp_path: Path) -> None:
    data = file_of(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": c} for c in "cdef"])
    with pytest.raises(DataError, match="4 pairs all have one prompt"):
        loaded(spec(data=data))


def test_data_of_another_kind_is_refused_with_what_it_is(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "completion": "Yes.", "label": i % 2 == 0} for i in range(9)]
    data = file_of(tmp_path / "labels.jsonl", rows)
    with pytest.raises(DataError, match="holds unpaired data") as caught:
        loaded(spec(data=data))
    assert "kto" in str(caught.value.hint)
    one = file_of(tmp_path / "good.jsonl", [{**row, "label": True} for row in rows])
    with pytest.raises(DataError, match="all answers are desirable"):
        load_unpaired(spec(data=one, loss_type="kto"), 0, [], [])


def test_made_pairs_for_training_and_testing_share_no_question() -> None:
    train, test = loaded(spec(pairs=200, test_pairs=20))
    questions = [{pair.prompt[-1]["content"] for pair in pairs} for pairs in (train, test)]
    assert len(train) == 200 and not questions[0] & questions[1]
    assert all(pair.rejected[0]["content"].startswith(pair.chosen[0]["content"]) for pair in train)


# ---- encoding and scoring ----


def test_a_pair_is_left_out_whole_and_only_answers_are_trained(chat: Chat) -> None:
    train, _ = loaded(spec())
    broken = replace(train[0], rejected=[{"role": "assistant", "content": "so " * 300}])
    aside: Aside = []
    pairs = encode_pairs(chat.tokenizer, [train[1], broken, train[2]], 96, aside)
    assert len(pairs) == 2 and len(aside) == 1 and aside[0][0] == "pair #0"
    assert aside[0][1].startswith("rejected: ") and "longer than" in aside[0][1]
    for (chosen, rejected), made in zip(pairs, (train[1], train[2])):
        for answer, reply in ((chosen, made.chosen), (rejected, made.rejected)):
            trained = chat.tokenizer.decode([label for label in answer.example.labels if label != IGNORE])
            assert trained == f"{reply[0]['content']}<|im_end|>"
            assert answer.example.labels[answer.prompt] != IGNORE == answer.example.labels[answer.prompt - 1]
    with pytest.raises(DataError, match="no preference pair is left"):
        encode_pairs(chat.tokenizer, [broken], 96, [])


def test_of_an_answer_of_several_turns_all_are_trained_and_the_prompt_is_not(chat: Chat) -> None:
    def says(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    prompt = [*TALK, says("Hello!"), {"role": "user", "content": "And?"}]
    more = {"role": "user", "content": "So?"}
    pair = PairRow(prompt, [says("One."), more, says("Two.")], [says("Three.")], Extras("x"))
    ((chosen, rejected),) = encode_pairs(chat.tokenizer, [pair], 96, [])
    trained = [chat.tokenizer.decode([i for i in one.example.labels if i != IGNORE]) for one in (chosen, rejected)]
    assert trained == ["One.<|im_end|>Two.<|im_end|>", "Three.<|im_end|>"]


@pytest.mark.parametrize("share", [True, False])
def test_the_references_scores_belong_to_their_documents(chat: Chat, tmp_path: Path, share: bool) -> None:
    pairs = encode_pairs(chat.tokenizer, loaded(spec(pairs=80))[0], 96, [])
    rows = pair_rows(pairs, 192, share=share)
    assert sum(map(len, rows)) == 2 * len(pairs) > 100
    saved = sum(len(doc) for row in rows for doc in row)
    whole = sum(len(one.example) for both in pairs for one in both)
    assert (saved < 0.8 * whole) is share
    scores = reference_logprobs(chat, source(tmp_path / "sft", chat), rows, CONFIG, workspace(tmp_path / "run" / "x"))
    alone: dict[tuple[int, ...], float] = {}
    for both in pairs:
        for one in both:
            with torch.no_grad():
                value = sequence_logprobs(chat.model, collate([[one.example]], 96, chat.pad_id))
            alone[tuple(one.example.input_ids)] = float(value[0])
    for row, values in zip(rows, scores, strict=True):
        trunk: list[int] = []
        for doc, value in zip(row, values, strict=True):
            ids = [*trunk[: doc.prefix], *doc.input_ids]
            trunk = trunk if doc.prefix else ids
            assert value == pytest.approx(alone[tuple(ids)], abs=1e-3)
    tied = with_reference(rows, scores)
    config = CONFIG.model_copy(update={"per_device_train_batch_size": len(rows)})
    (batch,) = PackedFeed(tied, 192, chat.pad_id, config, 0, count_pairs=True).micro_batches(0)
    with torch.no_grad():
        packed = sequence_logprobs(chat.model, batch)
    assert float((packed - batch.per_document["reference_logprob"]).abs().max()) < 1e-3


def test_a_model_judged_against_itself(chat: Chat) -> None:
    pairs = encode_pairs(chat.tokenizer, loaded(spec())[0], 96, [])
    rows = pair_rows(pairs, 192, share=True)
    scores = score_rows(chat.model, rows, chat, CONFIG)
    own = judged(rows, scores, scores)
    assert own["margin"] == pytest.approx(0, abs=1e-4) and own["pairs"] == 6
    chosen = [[value - (2.0 if doc.fields["is_chosen"] else 0.5) for doc, value in zip(row, values)]
              for row, values in zip(rows, scores)]  # fmt: skip
    assert judged(rows, scores, chosen)["margin"] == pytest.approx(1.5, abs=1e-4)
    flat = [(doc, value) for row, values in zip(rows, scores) for doc, value in zip(row, values)]
    right = [flat[i][1] > flat[i + 1][1] for i in range(0, len(flat), 2)]
    assert own["ranked"] == sum(right) / 6


def test_whether_length_decides_by_hand() -> None:
    def doc(n: int, pair: int, good: bool) -> Example:
        return Example([1] * (n + 1), [IGNORE] + [1] * n, fields={"pair": pair, "is_chosen": good})

    rows = [[doc(3, 0, True), doc(9, 0, False), doc(5, 1, True), doc(2, 1, False), doc(4, 2, True), doc(4, 2, False)]]
    # Pair 0: the longer one is likelier; pair 1: the shorter; pair 2 is of one length and does not count.
    found = judged(rows, [[-3.0, -1.0, -5.0, -2.0, -1.0, -2.0]], None)
    assert (found["longer_preferred"], found["unequal"], found["ranked"]) == (0.5, 2, 1 / 3)


def test_drift_by_hand() -> None:
    assert drift([[-1.0], [-2.0]], [[-2.0], [-5.0]]) == (2.0, pytest.approx(1.0))  # gaps 1 and 3
    assert drift([], []) is None


def test_sampled_answers_are_the_same_questions_before_and_after(chat: Chat) -> None:
    knobs = spec(flaw_cases=8)
    first, again = sampled_answers(chat, knobs), sampled_answers(chat, knobs)
    assert first == again and {len(values) for values in first.values()} == {8}
    assert set(first["flawless"]) <= {0.0, 1.0}
    assert len(sampled_answers(tiny_chat(seed=5), spec(flaw_cases=1))["right"]) == 2


def test_a_pair_that_is_too_long_is_named_by_file_and_line(chat: Chat, tmp_path: Path) -> None:
    fine = {"prompt": "Hello!", "chosen": "Yes.", "rejected": "No."}
    more = [{**fine, "prompt": f"Question {i}?"} for i in range(8)]
    rows = [fine, {**fine, "prompt": "Again?", "chosen": "so " * 300}, *[fine] * 6, *more]
    data = file_of(tmp_path / "pairs.jsonl", rows)
    aside: Aside = []
    train, test = loaded(spec(data=data), aside)
    encode_pairs(chat.tokenizer, [*train, *test], 96, aside)
    assert [where for where, reason in aside if "longer than" in reason] == [f"{data[0]['path']}:2"]
    assert len(aside) == 1 + 6  # and the same pair six times more


# ---- single answers ----


def test_every_prompt_of_a_row_stands_once_more_with_the_next_answer(chat: Chat) -> None:
    train, _ = load_unpaired(spec(pairs=4, loss_type="kto"), 0, [], [])
    answers = [one for one in encode_labelled(chat.tokenizer, train, 96, []) if one[1]]  # no prompt twice
    (row, *others) = labelled_rows(answers, 4 * 96, 96, share=False)
    own = [doc for doc in row if not doc.fields["mismatched"]]
    mixed = [doc for doc in row if doc.fields["mismatched"]]
    assert len(own) == len(mixed) >= 2
    for place, (mine, other) in enumerate(zip(own, mixed)):
        following = own[(place + 1) % len(own)]
        prompt = [i for i, label in zip(mine.input_ids, mine.labels) if label == IGNORE]
        answer = [i for i in following.labels if i != IGNORE]
        assert [i for i, label in zip(other.input_ids, other.labels) if label == IGNORE][: len(prompt) - 1] == prompt[
            :-1
        ]
        assert [i for i in other.labels if i != IGNORE] == answer
    shared = labelled_rows(answers, 4 * 96, 96, share=True)
    assert sum(map(len, shared)) == sum(map(len, [row, *others]))
    values = [score_rows(chat.model, rows, chat, CONFIG) for rows in ([row, *others], shared)]
    assert np.allclose(np.concatenate(values[0]), np.concatenate(values[1]), atol=1e-3)


# ---- whole stages ----

LOSSES: list[dict[str, Any]] = [
    {"loss_type": "apo_zero"},
    {"loss_type": "kto", "undesirable_weight": 1.5},
    {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.3},
    {"loss_type": ("sigmoid", "sft"), "loss_weights": (1.0, 0.2)},
    {"loss_type": "sigmoid", "adapter": {"r": 4}},
]


@pytest.mark.parametrize("knobs", LOSSES, ids=["apo_zero", "kto", "simpo", "two", "adapter"])
def test_a_stage_learns_and_is_the_same_when_it_is_made_again(tmp_path: Path, knobs: dict[str, Any]) -> None:
    values = {"pairs": 60, "test_pairs": 20, "learning_rate": 3e-3, "max_steps": 12, "flaw_cases": 0, **knobs}
    knob = spec(**values, per_device_train_batch_size=2)
    results = []
    for name in ("one", "two"):
        artifact = source(tmp_path / name / "sft", tiny_chat(context=192))
        out = workspace(tmp_path / name / "run" / "preference")
        metrics = Preference.run(knob, {"model": (artifact,)}, out)
        results.append((metrics, out.path))
    (metrics, folder), (again, other) = results
    figures = {figure["name"]: figure for figure in json.loads((folder / "stage_report.json").read_text())["figures"]}
    name = "reward margin" if "reward margin" in figures else "held-out pairs ranked right"
    # Without a reference the shorter, better answers are the likelier ones to begin with.
    assert figures[name]["after"] > figures[name]["before"] or figures[name]["before"] == 1
    assert metrics["final_loss"] == again["final_loss"]
    models = [hf.load(path / "model") for path in (folder, other)]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    assert (folder / "adapter").is_dir() is ("adapter" in knobs)
    if "simpo" not in str(knobs):
        assert figures["distance from the reference"]["before"] == 0


def test_the_reference_may_be_another_stage(tmp_path: Path) -> None:
    inputs = {
        "model": (source(tmp_path / "sft", tiny_chat(context=192)),),
        "reference": (source(tmp_path / "other", tiny_chat(seed=4, context=192)),),
    }
    out = workspace(tmp_path / "run" / "preference")
    Preference.run(spec(pairs=20, flaw_cases=0, reference="other"), inputs, out)
    figures = {f["name"]: f for f in json.loads((out.path / "stage_report.json").read_text())["figures"]}
    assert abs(figures["reward margin"]["before"]) > 0.01  # it does not begin at its own reference
    assert figures["distance from the reference"]["before"] is None
    with pytest.raises(ValueError, match="reference has no effect with loss_type simpo"):
        spec(loss_type="simpo", beta=2.0, reference="other")
