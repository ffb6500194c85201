"""Long conversations: what is kept ends where it should, nothing is invented, what is lost is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError
from luopan.recipe.parts import ChatSource
from luopan.stages.chat_weights import by_tokens
from luopan.stages.conversations import chat_data, data_notes, mode_table
from luopan.tokens.chat import Conversation, encode_chat, stop_ids
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.truncate import cut, shorten

SYSTEM = {"role": "system", "content": "Be brief."}


def turns(count: int, words: int = 6) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        made += [
            {"role": "user", "content": f"Question {number}: " + "why " * words},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    return made


def shortened(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], length: int, policy: Any) -> Any:
    def encode(row: Conversation) -> Example | None:
        try:
            return encode_chat(tokenizer, row.messages)
        except DataError:
            return None

    return shorten(Conversation(messages), encode_chat(tokenizer, messages), length, policy, encode)


def test_the_head_that_fits_ends_with_an_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [SYSTEM, *turns(8)]
    whole = encode_chat(tokenizer, messages)
    found = shortened(tokenizer, messages, len(whole) // 2, "keep_head")
    (head,) = found.examples
    assert list(head.input_ids) == list(whole.input_ids[: len(head)]) and len(head) <= len(whole) // 2
    assert [i for i in head.labels if i != IGNORE][-1] in stop_ids(tokenizer)
    assert found.lost == whole.num_trained - head.num_trained > 0
    assert shortened(tokenizer, messages, 8, "keep_head").examples == []


def test_pieces_begin_with_a_user_and_carry_the_system_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [SYSTEM, *turns(9)]
    length = len(encode_chat(tokenizer, messages)) // 3
    found = shortened(tokenizer, messages, length, "split_turns")
    texts = [tokenizer.decode(list(piece.input_ids)) for piece in found.examples]
    assert len(texts) >= 3 and all(len(piece) <= length for piece in found.examples)
    assert all("Be brief." in text and text.count("Question") == text.count("Answer") for text in texts)
    assert [f"Answer {n}." for n in range(9) for text in texts if f"Answer {n}." in text] == [
        f"Answer {n}." for n in range(9)
    ]


def test_an_exchange_that_is_too_long_by_itself_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        *turns(2),
        {"role": "user", "content": "why " * 300},
        {"role": "assistant", "content": "So."},
        *turns(1),
    ]
    found = shortened(tokenizer, messages, 120, "split_turns")
    texts = "".join(tokenizer.decode(list(piece.input_ids)) for piece in found.examples)
    assert "So." not in texts and texts.count("Answer 0.") == 2 and 0 < found.lost < 10


def test_a_call_is_not_parted_from_its_result(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    messages = [*turns(1), {"role": "user", "content": "Go."}, call, {"role": "tool", "content": "1 " * 30},
                {"role": "assistant", "content": "Done."}]  # fmt: skip
    length = len(encode_chat(tokenizer, messages)) - 5
    (head,) = shortened(tokenizer, messages, length, "keep_head").examples
    assert "<tool_call>" not in tokenizer.decode(list(head.input_ids))


def test_cut_loses_no_token() -> None:
    example = Example(list(range(10)), [IGNORE, *range(1, 10)])
    pieces = cut(example, 4)
    assert [list(piece.input_ids) for piece in pieces] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert sum(piece.num_trained for piece in pieces) == 9 - 2  # the first token of a later piece has nothing before it


def test_shares_of_tokens_are_met_to_half_a_conversation() -> None:
    lengths = [10] * 100 + [100] * 30 + [7] * 50
    sources = [0] * 100 + [1] * 30 + [2] * 50
    chosen = by_tokens(lengths, sources, [2, 1, 1], [1, 1, 1], seed=3)
    held = [sum(lengths[i] for i in chosen if sources[i] == number) for number in range(3)]
    # 1000, 3000 and 350 tokens: the last is the scarcest (350 / 0.25 = 1400), so 700, 350 and 350.
    assert held[2] == 350 and abs(held[0] - 700) <= 5 and abs(held[1] - 350) <= 50
    assert chosen == sorted(set(chosen)) and chosen == by_tokens(lengths, sources, [2, 1, 1], [1, 1, 1], seed=3)
    assert chosen != by_tokens(lengths, sources, [2, 1, 1], [1, 1, 1], seed=4)


def test_a_source_may_be_read_again_where_that_is_allowed() -> None:
    lengths, sources = [10] * 40, [0] * 30 + [1] * 10
    once = by_tokens(lengths, sources, [1, 1], [1, 1], seed=0)
    twice = by_tokens(lengths, sources, [1, 1], [1, 2.5], seed=0)
    assert len(once) == 20 and len(twice) == 50
    counts = [sum(i == number for i in twice) for number in range(30, 40)]
    assert sorted(set(counts)) == [2, 3] and sum(counts) == 25
    with pytest.raises(DataError, match="source 2 of the mixture has a weight and no conversation"):
        by_tokens([1], [0], [1, 1], [1, 1], seed=0)


def test_files_of_two_modes_make_a_mixture_and_say_how_they_were_read(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    thoughtful, plain = tmp_path / "think.jsonl", tmp_path / "plain.json"
    said = [{"role": "assistant", "content": f"<think>hm</think>{n}"} for n in range(40)]
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, answer]} for n, answer in enumerate(said)]
    thoughtful.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain.write_text(
        json.dumps([{"instruction": f"Say {n}", "output": str(n)} for n in range(40)] + [{"instruction": ""}])
    )
    sources = [ChatSource(path=str(thoughtful), mode="think", weight=1), ChatSource(path=str(plain), weight=3)]
    data = chat_data(tokenizer, sources, seed=0, max_length=64)
    tokens = {True: 0, False: 0}
    for example, thinks in zip(data.examples, data.thinks, strict=True):
        tokens[thinks] += len(example)
        assert ("<think>" in tokenizer.decode(list(example.input_ids))) is thinks
    assert abs(tokens[False] / sum(tokens.values()) - 0.75) < 0.02
    table = mode_table(data)
    assert table is not None and {row[0] for row in table.rows} == {"think", "no_think"}
    notes = data_notes(data)
    assert "think.jsonl: messages (messages), read as messages; 40 rows" in notes
    assert any(note.startswith("think.jsonl: ") and "left out for the mixture's weights" in note for note in notes)
    assert [where for where, _ in data.set_aside] == [f"{plain}:41"]


def test_text_is_trained_without_a_template(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}+1=", "completion": str(n + 1)}) + "\n" for n in range(5)))
    data = chat_data(tokenizer, [ChatSource(path=str(file), as_text=True)], seed=0, max_length=32)
    for number, example in enumerate(data.examples):
        assert tokenizer.decode(list(example.input_ids)) == f"{number}+1={number + 1}<|endoftext|>"
        assert tokenizer.decode([i for i in example.labels if i != IGNORE]) == f"{number + 1}<|endoftext|>"
