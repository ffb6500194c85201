"""The conversation behind `luopan chat`, with a model that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from luopan.cli.chat_session import ChatSession, Message, Part
from luopan.errors import DataError


class Parrot:
    """Answers with the last message; keeps what it was given."""

    def __init__(self, context: int = 1000) -> None:
        self.context = context
        self.asked: list[tuple[list[Message], bool]] = []
        self.stops_after: int | None = None

    def reply(self, messages: Sequence[Message], thinking: bool) -> Iterator[tuple[str, Part]]:
        self.asked.append(([dict(message) for message in messages], thinking))
        if messages[-1]["content"] == "fail":
            raise DataError("the prompt is longer than the context")
        if thinking:
            yield "hmm", "thinking"
        for number, letter in enumerate(messages[-1]["content"]):
            if number == self.stops_after:
                raise KeyboardInterrupt
            yield letter, "answer"

    def fits(self, messages: Sequence[Message], thinking: bool) -> bool:
        return sum(len(message["content"]) for message in messages) <= self.context


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def session(parrot: Parrot) -> ChatSession:
    said: list[str] = []
    made = ChatSession(parrot, said.append, lambda text, part: said.append(f"{part}:{text}"))
    made.said = said  # type: ignore[attr-defined]
    return made


def roles(session: ChatSession) -> str:
    return "".join(message["role"][0] for message in session.history())


def test_history_grows_and_is_what_the_model_sees(session: ChatSession, parrot: Parrot) -> None:
    assert session.take("hello\n") and session.take("again") and session.take("   ")
    assert roles(session) == "uaua"
    assert [message["content"] for message in parrot.asked[1][0]] == ["hello", "hello", "again"]


def test_system_prompt_stays_first_and_can_be_replaced(session: ChatSession, parrot: Parrot) -> None:
    session.take("one")
    session.take("/system You are a pirate.")
    session.take("two")
    assert parrot.asked[1][0][0] == {"role": "system", "content": "You are a pirate."}
    session.take("/system You are a poet.")
    assert session.history()[0]["content"] == "You are a poet." and roles(session) == "suaua"
    session.take("/system")
    assert roles(session) == "uaua"


def test_thinking_is_switched_and_kept_apart(session: ChatSession, parrot: Parrot) -> None:
    session.take("/think on")
    session.take("hi")
    assert parrot.asked[0][1] is True
    assert session.messages[-1] == {"role": "assistant", "content": "hi", "reasoning_content": "hmm"}
    assert "thinking:hmm" in session.said  # type: ignore[attr-defined]
    session.take("/think off")
    session.take("hi")
    assert parrot.asked[1][1] is False and "reasoning_content" not in session.messages[-1]
    session.take("/think maybe")
    assert "thinking is off" in session.said[-1]  # type: ignore[attr-defined]


def test_reset_keeps_the_system_prompt(session: ChatSession) -> None:
    session.take("/system Be brief.")
    session.take("hi")
    session.take("/reset")
    assert roles(session) == "s"


def test_ctrl_c_stops_the_reply_and_keeps_what_was_said(session: ChatSession, parrot: Parrot) -> None:
    parrot.stops_after = 3
    assert session.take("a long answer")
    assert session.messages[-1]["content"] == "a l"
    parrot.stops_after = 0
    assert session.take("nothing yet")
    assert roles(session) == "ua", "a turn without an answer did not happen"


def test_an_error_costs_the_turn_and_nothing_more(session: ChatSession) -> None:
    session.take("hi")
    assert session.take("fail")
    assert roles(session) == "ua"
    assert session.said[-1].startswith("error: the prompt is longer")  # type: ignore[attr-defined]


def test_a_full_context_forgets_the_oldest_and_says_so() -> None:
    said: list[str] = []
    parrot = Parrot(context=34)
    session = ChatSession(parrot, said.append, lambda text, part: None, system="Be brief.")
    for number in range(6):
        session.take(f"turn {number}")
    assert len(session.messages) < 12
    for messages, _ in parrot.asked:
        assert "".join(message["role"][0] for message in messages) in ("su", "suau", "suauau"), "whole exchanges go"
    assert session.messages[-2]["content"] == "turn 5"
    assert any("context is full" in line for line in said)


def test_save_writes_a_row_that_can_be_trained_on(session: ChatSession, tmp_path: Path) -> None:
    said: Any = session.said  # type: ignore[attr-defined]
    session.take(f"/save {tmp_path / 'x.jsonl'}")
    assert said[-1] == "nothing was said yet"
    session.take("/system Be brief.")
    session.take("hi")
    session.take(f"/save {tmp_path / 'x.jsonl'}")
    session.take("more")
    session.take(f"/save {tmp_path / 'x.jsonl'}")
    (line,) = (tmp_path / "x.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    (tmp_path / "mine.jsonl").write_text("precious")
    session.take(f"/save {tmp_path / 'mine.jsonl'}")
    assert (tmp_path / "mine.jsonl").read_text() == "precious" and "not overwritten" in said[-1]
    session.take("/save")
    assert said[-1].startswith("give a file")
    session.take(f"/save {tmp_path}/mine.jsonl/below/x")
    assert said[-1].startswith("error")


def test_help_quit_and_misspelt_commands(session: ChatSession) -> None:
    said: Any = session.said  # type: ignore[attr-defined]
    session.take("/help")
    assert all(command in said[-1] for command in ("/system", "/think", "/reset", "/save", "/quit"))
    session.take("/rest")
    assert said[-1] == 'no such command "/rest"; did you mean "/reset"?'
    assert session.messages == []
    assert session.take("/quit") is False
