"""Chat data: what is set aside and where it stood, what the mixture table counts, earlier turns in front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luopan.errors import DataError
from luopan.recipe.parts import ChatSource
from luopan.stages.conversations import ChatData, chat_data, mixture_table, set_aside_report, skill_cases
from luopan.tokens.example import Example

ASK, ANSWER = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am a model."}


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def talk(**changes: Any) -> dict[str, Any]:
    return {"messages": [ASK, ANSWER], **changes}


def test_bad_rows_are_set_aside_with_file_and_line(tokenizer, tmp_path: Path) -> None:
    path = written(
        tmp_path / "chats.jsonl",
        [
            talk(),
            "{oops",
            {"messages": [ASK]},
            {"text": "no messages"},
            "[1, 2]",
            {"messages": [ASK, {**ANSWER, "content": "so " * 300}]},
            {"messages": [{"role": "usr", "content": "?"}, ANSWER]},
            {"messages": [ASK, {**ANSWER, "content": "\ud800"}]},
            talk(),
        ],
    )
    data = chat_data(tokenizer, [ChatSource(path=str(path))], seed=1, max_length=64)
    aside = dict(data.set_aside)
    assert sorted(aside) == [f"{path}:{line}" for line in range(2, 9)]
    reasons = [aside[f"{path}:{line}"] for line in range(2, 9)]
    words = ("not JSON", "no assistant turn", "`messages`", "list", "longer than max_length 64", "usr", "surrogate")
    assert all(word in reason for word, reason in zip(words, reasons)), reasons
    assert len(data.examples) == 2 and data.sources == ["chats.jsonl"] * 2 and data.turns == [1, 1]
    entries = set_aside_report("sft", data)
    assert sum(entry.count for entry in entries) == 7 and {entry.of for entry in entries} == {9}
    (place,) = next(entry for entry in entries if "no assistant turn" in entry.reason).examples
    assert place.startswith(f"{path}:3: ")


def test_nothing_left_to_train_on_says_where(tokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "chats.jsonl", [{"messages": [ASK]}])
    with pytest.raises(DataError) as caught:
        chat_data(tokenizer, [ChatSource(path=str(path))], seed=1, max_length=64)
    assert "no assistant turn" in str(caught.value) and str(caught.value.where) == f"{path}:1"


def test_a_file_says_itself_whether_it_thinks(tokenizer, tmp_path: Path) -> None:
    thought = {**ANSWER, "reasoning_content": "They ask my name."}
    rows = [
        {"messages": [ASK, thought], "chat_template_kwargs": {"enable_thinking": True}},
        {"messages": [ASK, ANSWER], "chat_template_kwargs": {"enable_thinking": False}},
    ]
    path = written(tmp_path / "chats.jsonl", rows)
    data = chat_data(tokenizer, [ChatSource(path=str(path))], seed=1, max_length=96)
    on, off = (tokenizer.decode(example.input_ids) for example in data.examples)
    assert "/think" in on and "<think>\nThey ask my name.\n</think>" in on
    assert "/no_think" in off and "<think>" not in off


def test_examples_limits_a_file(tokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "chats.jsonl", [talk()] * 5)
    assert len(chat_data(tokenizer, [ChatSource(path=str(path), examples=3)], seed=1, max_length=64).examples) == 3


def test_only_the_assistant_is_trained(tokenizer) -> None:
    source = ChatSource(skill="identity", examples=5)
    data = chat_data(tokenizer, [source], seed=4, max_length=96)
    cases = skill_cases(source, 4)
    for example, case in zip(data.examples, cases, strict=True):
        trained = tokenizer.decode([label for label in example.labels if label != -100])
        assert trained == f"{case.answer}<|im_end|>"


def test_two_sources_of_one_skill_draw_other_cases(tokenizer) -> None:
    source = ChatSource(skill="addition", examples=8)
    data = chat_data(tokenizer, [source, source], seed=4, max_length=96)
    texts = [tuple(example.input_ids) for example in data.examples]
    assert texts[:8] != texts[8:] and data.sources == ["addition"] * 16
    again = chat_data(tokenizer, [source, source], seed=4, max_length=96)
    assert [tuple(example.input_ids) for example in again.examples] == texts


def test_a_flaw_spoils_its_share(tokenizer) -> None:
    clean = skill_cases(ChatSource(skill="talk", examples=60), 2)
    spoilt = skill_cases(ChatSource(skill="talk", examples=60, flaw_rate=0.3), 2)
    changed = [new.answer != old.answer for old, new in zip(clean, spoilt, strict=True)]
    assert 8 <= sum(changed) <= 28
    assert [new.messages for new in spoilt] == [old.messages for old in clean]


def test_earlier_turns_go_before_skill_cases_and_leave_files_alone(tokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "chats.jsonl", [talk(), talk()])
    sources = [ChatSource(path=str(path)), ChatSource(skill="identity", examples=40)]
    data = chat_data(tokenizer, sources, seed=1, max_length=128, multi_turn=0.5)
    by_source = {name: [t for t, s in zip(data.turns, data.sources) if s == name] for name in set(data.sources)}
    assert by_source["chats.jsonl"] == [1, 1]
    longer = [turns for turns in by_source["identity"] if turns > 1]
    assert 10 <= len(longer) <= 30 and set(longer) <= {2, 3}


def test_mixture_table_by_hand() -> None:
    def example(prompt: int, answer: int) -> Example:
        return Example(list(range(prompt + answer)), [-100] * prompt + list(range(answer)))

    data = ChatData([example(6, 2), example(10, 2), example(10, 10)], ["a", "a", "b"], [1, 1, 3])
    table = mixture_table(data)
    assert table.rows == [
        # source, rows, share of rows, tokens, share of tokens, mean length, in context, in response, turns
        ["a", 2, 2 / 3, 20, 0.5, 10.0, 8.0, 2.0, 1.0],
        ["b", 1, 1 / 3, 20, 0.5, 20.0, 10.0, 10.0, 3.0],
    ]
    assert table.total == ["all", 3, 1.0, 40, 1.0, 40 / 3, 26 / 3, 14 / 3, 5 / 3]
    assert len(table.columns) == len(table.units) == len(table.rows[0])


def test_odd_template_arguments_are_set_aside(tokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "chats.jsonl", [talk(), talk(chat_template_kwargs="thinking")])
    data = chat_data(tokenizer, [ChatSource(path=str(path))], seed=1, max_length=64)
    assert [where for where, _ in data.set_aside] == [f"{path}:2"]


def test_a_file_with_a_number_sign_in_its_name_is_left_alone(tokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "chats #1.jsonl", [talk(), talk()])
    sources = [ChatSource(path=str(path)), ChatSource(skill="addition", examples=4)]
    data = chat_data(tokenizer, sources, seed=1, max_length=128, multi_turn=0.01)
    assert "I am a model." in tokenizer.decode(data.examples[0].input_ids)
