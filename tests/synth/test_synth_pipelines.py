"""The pipelines on scripted teachers: what they ask, keep and reject, and that they go on where they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synth_toys import SAMPLING, Scripted, harvest, instructions

from luopan.synth.config import Dedup, Fact, IdentityConfig, PairsConfig, SelfInstructConfig
from luopan.synth.identity import identity
from luopan.synth.journal import Asker, Journal
from luopan.synth.pairs import Question, by_verifier, pairs
from luopan.synth.self_instruct import self_instruct
from luopan.synth.speaker import Reply

SEEDS = ["Name three rivers of Asia.", "Explain what a compass is for.", "Write a short letter to a friend."]


def instruct(request: dict[str, Any]) -> str:
    asked = request["messages"][0]["content"]
    return instructions(request["seed"], 4) if "numbered list" in asked else f"An answer to {asked}"


def small(**more: Any) -> SelfInstructConfig:
    values = {"kind": "self_instruct", "rows": 6, "per_request": 4, "requests_per_round": 2, **more}
    return SelfInstructConfig.model_validate(values)


def test_self_instruct_makes_as_many_as_it_is_told(tmp_path: Path) -> None:
    found, speaker = harvest(Dedup()), Scripted(instruct)
    self_instruct(small(), SEEDS, SAMPLING, Asker(speaker, Journal(tmp_path)), found)
    assert len(found.rows) == 6 and len({row["messages"][0]["content"] for row in found.rows}) == 6
    first = speaker.asked[0]["messages"][0]["content"]
    assert all(seed in first for seed in SEEDS) and "Write 4 new instructions" in first
    for row in found.rows:
        asked, answer = row["messages"]
        assert answer["content"] == f"An answer to {asked['content']}" and len(row["provenance"]["requests"]) == 2


def test_self_instruct_goes_on_with_the_same_rows(tmp_path: Path) -> None:
    whole = harvest(Dedup())
    self_instruct(small(), SEEDS, SAMPLING, Asker(Scripted(instruct), Journal(tmp_path / "a")), whole)
    dying = Scripted(instruct, dies=5)
    with pytest.raises(KeyboardInterrupt):
        self_instruct(small(), SEEDS, SAMPLING, Asker(dying, Journal(tmp_path / "b")), harvest(Dedup()))
    again, speaker = harvest(Dedup()), Scripted(instruct)
    self_instruct(small(), SEEDS, SAMPLING, Asker(speaker, Journal(tmp_path / "b")), again)
    assert [row["messages"] for row in again.rows] == [row["messages"] for row in whole.rows]
    seen = [request["seed"] for request in (*dying.asked, *speaker.asked)]
    assert len(seen) == len(set(seen))


def test_self_instruct_rejects_twins_and_stops_when_nothing_is_new(tmp_path: Path) -> None:
    def parrot(request: dict[str, Any]) -> Reply:
        asked = request["messages"][0]["content"]
        if "numbered list" in asked:
            return Reply(
                "1. Name three rivers of Asia!\n2. No.\n3. Draw a map of your town in words\n4. cut of", None, False
            )
        return Reply("half an ans", None, ended="map" not in asked)

    found = harvest(Dedup())
    self_instruct(small(), SEEDS, SAMPLING, Asker(Scripted(parrot), Journal(tmp_path)), found)
    assert found.rows == [] and "3 rounds in a row" in found.notes[0]
    checks = [row["check"] for row in found.rejected]
    assert set(checks) == {"duplicate", "length", "ended"} and checks.count("ended") == 1
    assert not any("cut of" in str(row.get("instruction")) for row in found.rejected)  # the last of a cut list


def test_identity_asks_in_every_manner_and_checks_the_answers(tmp_path: Path) -> None:
    config = IdentityConfig(
        kind="identity",
        facts=(Fact(statement="My name is Lumen.", expect=("Lumen",)), Fact(statement="I was made in Xi'an.")),
        styles=("short", "long"),
        questions=2,
        never=("ChatGPT",),
        system="Be kind.",
    )

    def persona(request: dict[str, Any]) -> str:
        asked = request["messages"][-1]["content"]
        if "numbered list" in asked:
            mark = f"{'name' if 'Lumen' in asked else 'place'} {'short' if 'short' in asked else 'long'}"
            return f"1. Who {mark} are you?\n2. Tell me {mark}, Lumen!"
        assert request["messages"][0]["role"] == "system" and "- My name is Lumen." in request["messages"][0]["content"]
        if "place" in asked:
            return "I am ChatGPT." if "short" in asked else "From Xi'an."
        return "I am LUMEN." if "short" in asked else "I am an assistant."

    found, speaker = harvest(Dedup(max_overlap=1.0)), Scripted(persona)
    identity(config, SAMPLING, Asker(speaker, Journal(tmp_path)), found)
    assert found.rows[0]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who name short are you?"},
        {"role": "assistant", "content": "I am LUMEN."},
    ]
    assert [row["messages"][2]["content"] for row in found.rows[1:]] == ["From Xi'an."] * 2
    assert sorted(row["check"] for row in found.rejected) == ["asks", "asks", "expected", "never", "never"]


def sums(number: int) -> list[Question]:
    return [
        Question(({"role": "user", "content": f"What is {at} and {at}?"},), "sums", "exact", {"answer": str(2 * at)})
        for at in range(1, number + 1)
    ]


def right(request: dict[str, Any]) -> str:
    return str(2 * int(request["messages"][0]["content"].split()[2]))


def test_pairs_of_a_strong_and_a_weak_model(tmp_path: Path) -> None:
    found, journal = harvest(), Journal(tmp_path)
    weak = Scripted(
        lambda request: "2" if request["messages"][0]["content"].startswith("What is 1") else "no idea", "weak"
    )
    strong = Scripted(right, "strong")
    pairs(PairsConfig(kind="pairs"), sums(3), SAMPLING, Asker(strong, journal), Asker(weak, journal), None, found)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.rows] == [
        ("4", "no idea"),
        ("6", "no idea"),
    ]
    assert [row["check"] for row in found.rejected] == ["different"] and len(strong.asked) == len(weak.asked) == 3
    assert found.rows[0]["provenance"]["models"] == ["strong", "weak"]
    assert found.rows[0]["prompt"] == [{"role": "user", "content": "What is 2 and 2?"}]


def test_pairs_of_ones_own_graded_answers(tmp_path: Path) -> None:
    def uneven(request: dict[str, Any]) -> Reply:
        number = int(request["messages"][0]["content"].split()[2])
        if number == 1:
            return Reply("2", None, True)  # all are right
        if number == 2:
            return Reply("5", None, True)  # none is
        if number == 4:
            return Reply("8", None, False)  # none ends
        return Reply("6" if request["seed"] % 2 else f"7 {request['seed']}", "hm", True)

    found = harvest()
    asker = Asker(Scripted(uneven), Journal(tmp_path))
    config = PairsConfig(kind="pairs", grade="verifier", samples=6)
    thinking = [Question(one.messages, one.task, one.verifier, one.args, "", True) for one in sums(4)]
    pairs(config, thinking, SAMPLING, asker, None, by_verifier, found)
    assert asker.asked == 24 and len(found.rows) == 1
    row = found.rows[0]
    assert row["chosen"] == [{"role": "assistant", "content": "6", "reasoning_content": "hm"}]
    assert row["rejected"][0]["content"].startswith("7") and row["grades"] == {"chosen": 1.0, "rejected": 0.0}
    assert row["chat_template_kwargs"] == {"enable_thinking": True}
    assert [one["check"] for one in found.rejected] == ["margin", "good enough", "whole answers"]
