"""Every usual form of chat data becomes messages, what does not fit is a fault in words, nothing is raised or lost."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from luopan.errors import DataError
from luopan.tokens.convert import convert
from luopan.tokens.formats import ChatRow, PairRow, TextRow, UnpairedRow, recognise

SHARED = Path(os.environ.get("LUOPAN_SHARED_DATA", "../shared/data"))
USER, SAYS = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}


def chat(row: dict[str, Any]) -> ChatRow:
    found = convert(row, recognise([row], "x"), "x:1")
    assert isinstance(found, ChatRow), found
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, SAYS]},
        {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]},
        {"conversation": [{"role": "human", "content": "Hi."}, {"role": "bot", "content": "Hello."}]},
        {"instruction": "Hi.", "input": "", "output": "Hello."},
        {"instruction": "Hi.", "response": "Hello."},
        {"prompt": "Hi.", "completion": "Hello."},
        {"prompt": [USER], "completion": [SAYS]},
        {"question": "Hi.", "answer": "Hello."},
        {"messages": [{"role": "user", "content": [{"type": "text", "value": "Hi."}]}, SAYS]},
    ],
)
def test_forms_of_one_conversation(row: dict[str, Any]) -> None:
    messages = chat(row).messages
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[0]["content"] in ("Hi.", [{"type": "text", "text": "Hi."}]) and messages[1]["content"] == "Hello."


def test_what_stands_beside_a_conversation() -> None:
    tool = {"name": "f", "description": "d", "parameters": {}}
    row = chat({"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}],
                "system": "Be brief.", "tools": json.dumps([tool])})  # fmt: skip
    assert row.messages[0] == {"role": "system", "content": "Be brief."}
    assert row.extras.tools == [{"type": "function", "function": tool}]
    kwargs = {"enable_thinking": True, "custom_instructions": "Rhyme.", "python_tools": None, "xml_tools": []}
    row = chat({"messages": [USER, SAYS], "chat_template_kwargs": json.dumps(kwargs)})
    assert row.extras.enable_thinking is True and row.extras.arguments == {"custom_instructions": "Rhyme."}
    assert chat({"messages": [USER, SAYS]}).extras.enable_thinking is None
    thought = {"role": "assistant", "content": "<think>hm</think>Hello."}
    assert chat({"messages": [USER, thought]}).extras.enable_thinking is True
    assert chat({"messages": [USER, {**SAYS, "reasoning_content": "hm"}]}).extras.enable_thinking is True
    assert chat({"messages": [USER, {**SAYS, "content": "<think></think>Hello."}]}).extras.enable_thinking is None
    dolly = chat({"instruction": "Say it.", "context": "Hello.", "response": "Hello."})
    assert dolly.messages[0]["content"] == "Say it.\n\nHello."
    orca = chat({"system_prompt": "Be brief.", "question": "Hi.", "response": "Hello."})
    assert [m["role"] for m in orca.messages] == ["system", "user", "assistant"]
    alpaca = chat(
        {"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["Hi.", "Hello."]], "system": "S"}
    )
    assert [m["content"] for m in alpaca.messages] == ["S", "Hi.", "Hello.", "Add.\n\n1, 2", "3"]


def test_calls_and_results_of_sharegpt() -> None:
    row = chat(
        {
            "conversations": [
                {"from": "human", "value": "Weather?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": "{\\"place\\": \\"Ulm\\"}"}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "It rains."},
            ]
        }
    )
    assert [m["role"] for m in row.messages] == ["user", "assistant", "tool", "assistant"]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Ulm"}}}
    assert row.messages[1]["tool_calls"] == [call] and row.messages[1]["content"] == ""


def test_calls_behind_words_are_one_turn() -> None:
    call = {"from": "function_call", "value": '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'}
    row = chat({"conversations": [{"from": "human", "value": "Go."}, {"from": "gpt", "value": "I will."}, call]})
    assert len(row.messages) == 2 and len(row.messages[1]["tool_calls"]) == 2
    assert row.messages[1]["content"] == "I will."


def test_pairs_labels_and_text() -> None:
    yes, no = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
    row = {"chosen": [USER, SAYS, USER, yes], "rejected": [USER, SAYS, USER, no], "margin": 2}
    pair = convert(row, recognise([row], "x"), "x")
    assert isinstance(pair, PairRow) and pair.prompt == [USER, SAYS, USER] and pair.margin == 2.0
    assert (pair.chosen, pair.rejected) == ([yes], [no])
    longer = {"prompt": "Hi.", "chosen": [USER, yes, USER, no], "rejected": [USER, no]}
    pair = convert(longer, recognise([longer], "x"), "x")
    assert isinstance(pair, PairRow) and pair.prompt == [USER] and pair.chosen == [yes, USER, no]
    system = {"role": "system", "content": "S"}
    beside = {"prompt": [system, USER], "chosen": [USER, yes], "rejected": [USER, no]}
    pair = convert(beside, recognise([beside], "x"), "x")
    assert isinstance(pair, PairRow) and pair.prompt == [system, USER] and pair.chosen == [yes]
    one_sided = {"prompt": "Hi.", "chosen": [USER, yes], "rejected": [no]}
    pair = convert(one_sided, recognise([one_sided], "x"), "x")
    assert isinstance(pair, PairRow) and (pair.prompt, pair.chosen, pair.rejected) == ([USER], [yes], [no])
    other = {"prompt": "Q0", "chosen": [USER, yes], "rejected": [{**USER, "content": "Q2"}, no]}
    assert "another conversation" in str(convert(other, recognise([other], "x"), "x"))
    spelt = convert({**row, "margin": "1.5"}, recognise([row], "x"), "x")
    assert isinstance(spelt, PairRow) and spelt.margin == 1.5
    for bad in (float("nan"), float("inf"), "much", True):
        assert "`margin` is" in str(convert({**row, "margin": bad}, recognise([row], "x"), "x"))
    labelled: dict[str, Any] = {"prompt": "Hi.", "completion": "Yes.", "label": False}
    one = convert(labelled, recognise([labelled], "x"), "x")
    assert isinstance(one, UnpairedRow) and one.label is False and one.completion == [yes]
    form = recognise([{"text": "Once."}], "x")
    assert convert({"text": "Once."}, form, "x") == TextRow("Once.", "x")
    plain = {"prompt": "2+2=", "completion": "4"}
    assert convert(plain, recognise([plain], "x"), "x", as_text=True) == TextRow("4", "x", "2+2=")


def test_turns_that_are_not_learnt() -> None:
    """A prompt's are not, nor those that the data marks so; what the key says is gone where it says nothing."""
    unlearnt = {**SAYS, "weight": 0}
    talk = {"prompt": [USER, SAYS, USER], "completion": [SAYS]}
    assert chat(talk).messages == [USER, unlearnt, USER, SAYS]
    asked = {"prompt": "Hi.", "completion": "Hello.", "history": [["Hi.", "Hello."]]}
    assert chat(asked).messages == [USER, unlearnt, USER, SAYS]
    marked = {"messages": [USER, {**SAYS, "weight": 0}, {**USER, "weight": 1}, {**SAYS, "weight": 1}]}
    assert chat(marked).messages == [USER, unlearnt, USER, SAYS]
    said = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello.", "loss": False}]
    assert chat({"conversations": said * 2}).messages == [USER, unlearnt] * 2
    call = {"from": "function_call", "value": '{"name": "f", "arguments": {}}', "weight": 0}
    assert chat({"conversations": [said[0], call]}).messages[1]["weight"] == 0
    pair = {"instruction": "Hi.", "input": "There.", "chosen": "a", "rejected": "b"}
    found = convert(pair, recognise([pair], "x"), "x")
    assert isinstance(found, PairRow) and found.prompt == [{"role": "user", "content": "Hi.\n\nThere."}]
    whole = {"instruction": "Hi.", "chosen": [USER, SAYS], "rejected": [USER, {**SAYS, "content": "No."}]}
    found = convert(whole, recognise([whole], "x"), "x")
    assert isinstance(found, PairRow) and (found.prompt, found.chosen) == ([USER], [SAYS])
    spelt = {"prompt": "Hi.", "completion": "Hello.", "label": "0.0"}
    one = convert(spelt, recognise([spelt], "x"), "x")
    assert isinstance(one, UnpairedRow) and one.label is False


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"messages": [USER, "Hello."]}, "message 2 is not an object"),
        ({"messages": []}, "no list in the column `messages`"),
        ({"messages": [USER, {"from": "gpt", "value": "x", "mood": "glad"}]}, "mood"),
        ({"messages": [USER, SAYS], "tools": "not json"}, "`tools` is text that is no JSON"),
        ({"messages": [USER, SAYS], "tools": {"name": "f"}}, "`tools` is not a list"),
        ({"messages": [USER, SAYS], "chat_template_kwargs": {"enable_thinking": "yes"}}, "neither true nor false"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]}, "needs a name"),
        ({"messages": [USER, {**SAYS, "weight": 0.5}]}, "weight 0.5"),
        ({"messages": [USER, {"from": "gpt", "value": "x", "loss": "no"}]}, "loss 'no'"),
        ({"messages": [{"role": "system", "content": "A"}, USER, SAYS], "system": "B"}, "say different things"),
        (
            {"messages": [USER, {**SAYS, "reasoning_content": "hm"}], "enable_thinking": False},
            "the thinking would be dropped",
        ),
    ],
)
def test_faults_say_what_is_wrong(row: dict[str, Any], fault: str) -> None:
    form = recognise([{"messages": [USER, SAYS]}], "x")
    found = convert(row, form, "x")
    assert isinstance(found, str) and fault in found


def test_a_set_that_is_not_recognised_says_its_columns() -> None:
    with pytest.raises(DataError, match="its columns are: a, b") as caught:
        recognise([{"a": 1, "b": 2}], "odd.jsonl")
    assert "messages" in str(caught.value.hint)
    with pytest.raises(DataError, match="format is alpaca, and its columns are missing"):
        recognise([{"text": "x"}], "odd.jsonl", "alpaca")
    for column in ("functions", "reasoning"):
        with pytest.raises(DataError, match=f"column {column} would be dropped"):
            recognise([{"prompt": "a", "completion": "b", column: "c"}], "x")
    with pytest.raises(DataError, match="neither true nor false"):
        recognise([{"prompt": "a", "completion": "b", "label": "good"}], "x")
    two = [{"question": "a", "answer": "b", "response": "c"}]
    with pytest.raises(DataError, match="response and answer could each be the answer") as caught:
        recognise(two, "x")
    assert "`format: prompt_completion` where it is answer; else `columns: {COLUMN: answer}`" in str(caught.value.hint)
    for row in ({"query": "a", "response": "b", "answer": "c"}, {"prompt": "a", "completion": "b", "output": "c"}):
        with pytest.raises(DataError, match="could each be the answer"):
            recognise([row], "x")
    assert recognise(two, "x", "prompt_completion").columns == ("question", "answer")
    with pytest.raises(DataError, match="output and response could each be the answer"):
        recognise([{"instruction": "a", "output": "b", "response": "c"}], "x")
    both = [{"text": "x", "instruction": "Hi.", "output": "Hello."}]
    assert recognise(both, "x").name == "alpaca" and recognise(both, "x", "text").name == "text"
    assert recognise(both, "x.jsonl").sentence("x.jsonl").startswith("x.jsonl: Alpaca (instruction, output), read as")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "from", "content", "value", "name", "arguments", "function", "type", "text"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "conversations", "chosen", "rejected", "prompt", "completion", "label", "tools", "system",
             "chat_template_kwargs", "instruction", "output", "input", "history", "margin", "text"]
        ),
        ANYTHING,
        max_size=5,
    )
)  # fmt: skip
def test_no_row_makes_it_raise(row: dict[str, Any]) -> None:
    try:
        form = recognise([row], "x")
    except DataError:
        return
    assert convert(row, form, "x") is not None


@pytest.mark.data
@pytest.mark.skipif(
    not SHARED.is_dir(), reason="there is no ../shared/data here (LUOPAN_SHARED_DATA names another place)"
)
def test_every_real_set_is_read_nearly_whole() -> None:
    for file in sorted([*(SHARED / "chat").iterdir(), *(SHARED / "preference").iterdir()]):
        if file.name.startswith("gsm8k"):
            continue  # graded solutions, no chat
        packed = file.suffix == ".gz"
        data = file.read_bytes()
        text = gzip.decompress(data) if packed else zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        rows = [json.loads(line) for line in text.decode().splitlines() if line]
        form = recognise(rows, file.name)
        faults = [found for found in (convert(row, form, "x") for row in rows) if isinstance(found, str)]
        assert len(faults) < 0.01 * len(rows), (file.name, faults[:3])
