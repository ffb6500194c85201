"""Conversations that can be checked: the drawn instructions, the modes, and what becomes of answers that fail."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from synth_toys import SAMPLING, Scripted, harvest

from luopan.evals.ifeval import row_problem
from luopan.synth import constraints
from luopan.synth.config import Dedup, IfThinkConfig
from luopan.synth.constraints import APART, MAKERS, draw, together
from luopan.synth.ifthink import First, ifthink, modes
from luopan.synth.journal import Asker, Journal
from luopan.synth.speaker import Reply

NO_COMMA = First("Name two rivers. Do not use any commas.", ("punctuation:no_comma",), ({},))


def config(**more: Any) -> IfThinkConfig:
    return IfThinkConfig.model_validate({"kind": "ifthink", "rows": 1, "turns": 2, **more})


def test_every_drawn_instruction_is_one_of_ifeval_with_arguments_that_fit() -> None:
    random, seen = Random(0), set()
    for _ in range(300):
        some = draw(random, 3)
        assert row_problem([one.id for one in some], [one.kwargs for one in some]) == ""
        assert all(together(a.id, b.id) for a in some for b in some if a is not b)
        for one in some:
            seen.add(one.id)
            values = [v for value in one.kwargs.values() for v in (value if isinstance(value, list) else [value])]
            told = [str(value) for value in values if value not in ("at least", "less than")]
            assert all(word in one.text for word in told), one
    assert seen == set(MAKERS) and all(names <= set(MAKERS) for names in APART)


def test_the_mode_changes_where_both_may_be() -> None:
    random = Random(0)
    drawn = [modes(config(turns=3, thinking=0.9), random) for _ in range(50)]
    assert all(len(set(some)) == 2 for some in drawn)
    assert (
        modes(config(turns=3, thinking=1.0), random) == [True] * 3
        and modes(config(thinking=0.0), random) == [False] * 2
    )


def obedient(request: dict[str, Any]) -> Reply:
    """Follows what the toy's turns ask for: commas nowhere."""
    if "numbered list" in request["messages"][0]["content"]:
        return Reply("1. And a lake?\n2. And a sea?", None, True)
    return Reply("A river and a lake", "Let me see." if request["think"] else None, True)


@pytest.fixture
def only_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "MAKERS", {"punctuation:no_comma": MAKERS["punctuation:no_comma"]})


def run(tmp_path: Path, replies: Any, **more: Any) -> tuple[Any, Scripted]:
    found, speaker = harvest(Dedup()), Scripted(replies)
    ifthink(config(**more), [NO_COMMA, First("Name a hill.")], SAMPLING, Asker(speaker, Journal(tmp_path)), found)
    return found, speaker


@pytest.mark.usefixtures("only_commas")
def test_a_conversation_that_passes_has_its_modes_and_instructions(tmp_path: Path) -> None:
    found, speaker = run(tmp_path, obedient, rows=5)
    assert len(found.rows) == 2 and "for 2 conversations, not for 5" in found.notes[0]
    row = found.rows[0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    assert row["messages"][2]["content"].startswith("And a lake? Do not use any commas. /")
    for at, mode in enumerate(row["modes"]):
        asked, answer = row["messages"][2 * at : 2 * at + 2]
        assert asked["content"].endswith(f" /{mode}") and ("reasoning_content" in answer) == (mode == "think")
    assert sorted(row["modes"]) == ["no_think", "think"] and row["chat_template_kwargs"] == {"enable_thinking": True}
    assert row["verifiable"][0] == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert found.rows[1]["messages"][0]["content"].startswith("Name a hill. Do not use any commas. /")
    last = speaker.asked[-1]["messages"]
    assert [message["content"] for message in last][1] == "A river and a lake" and "/" not in last[0]["content"]
    assert len(row["provenance"]["requests"]) == 3 and found.tallies["punctuation:no_comma"].passed == 4


@pytest.mark.usefixtures("only_commas")
@pytest.mark.parametrize(
    ("reply", "check"),
    [
        (lambda think: Reply("One, two", "hm" if think else None, True), "punctuation:no_comma"),
        (lambda think: Reply("One", "hm", True), "mode"),
        (lambda think: Reply("One", None, True), "mode"),
        (lambda think: Reply("One", "hm" if think else None, False), "ended"),
        (lambda think: Reply("One", "word " * 9 if think else None, True), "trace length"),
    ],
)
def test_an_answer_that_fails_ends_its_conversation(tmp_path: Path, reply: Any, check: str) -> None:
    def failing(request: dict[str, Any]) -> Reply:
        return obedient(request) if "numbered list" in request["messages"][0]["content"] else reply(request["think"])

    found, speaker = run(tmp_path, failing, max_think_words=5)
    assert found.rows == [] and found.rejected[0]["check"] == check
    assert len(speaker.asked) == found.rejected[0]["turn"] + 2  # no further turn is paid for


@pytest.mark.usefixtures("only_commas")
def test_too_few_turns_are_noticed_before_anything_is_answered(tmp_path: Path) -> None:
    found, speaker = run(tmp_path, lambda request: "1. One more?", turns=3)
    assert found.rejected[0]["check"] == "turns" and len(speaker.asked) == 1
