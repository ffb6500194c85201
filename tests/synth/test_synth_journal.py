"""What was heard is never asked again, whatever happened in between; and what a run has cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from synth_toys import SAMPLING, Scripted, said

from luopan.rl.line import Refused
from luopan.synth.journal import NAME, Asker, Journal, seed_of
from luopan.synth.speaker import Ask, Reply, read_reply


def asks(count: int) -> list[Ask]:
    return [Ask(({"role": "user", "content": f"q{at}"},), at, SAMPLING, "answers") for at in range(count)]


def echo(request: dict) -> str:
    return f"to {request['messages'][0]['content']}"


def test_a_killed_run_asks_for_nothing_twice(tmp_path: Path) -> None:
    dying = Scripted(echo, dies=5)
    with pytest.raises(KeyboardInterrupt):
        Asker(dying, Journal(tmp_path)).ask(asks(10))
    with open(tmp_path / NAME, "a", encoding="utf-8") as file:
        file.write('{"key": "cut of')  # as a crash leaves it
    again = Scripted(echo)
    asker = Asker(again, Journal(tmp_path))
    heard = asker.ask(asks(10))
    assert [one.text for one in heard] == [f"to q{at}" for at in range(10)]
    told = [request["messages"][0]["content"] for request in (*dying.asked, *again.asked)]
    assert sorted(told) == sorted(f"q{at}" for at in range(10)) and len(dying.asked) == 5
    assert (asker.asked, asker.remembered) == (5, 5)
    third = Scripted(echo)
    kept = Asker(third, Journal(tmp_path)).ask(asks(10))
    assert third.asked == [] and [(one.text, one.date) for one in kept] == [(one.text, one.date) for one in heard]


def test_the_same_request_twice_is_one_and_other_seeds_are_others(tmp_path: Path) -> None:
    speaker = Scripted(echo)
    same = asks(1) * 3
    assert len({one.key for one in Asker(speaker, Journal(tmp_path)).ask(same)}) == 1 and len(speaker.asked) == 1
    Asker(speaker, Journal(tmp_path)).ask([Ask(same[0].messages, 99, SAMPLING, "answers")])
    assert len(speaker.asked) == 2
    assert 0 <= seed_of(1, "a") < 2**31 and seed_of(1, "a") != seed_of(2, "a")


def test_lasting_faults_are_kept_and_passing_ones_asked_again(tmp_path: Path) -> None:
    def moody(request: dict) -> Reply:
        return Reply(fault="no", lasting=request["seed"] == 0)

    Asker(Scripted(moody), Journal(tmp_path)).ask(asks(2))
    again = Scripted(echo)
    heard = Asker(again, Journal(tmp_path)).ask(asks(2))
    assert [request["seed"] for request in again.asked] == [1]
    assert heard[0].reply.fault == "no" and heard[1].text == "to q1"


def test_the_bill_adds_up_over_sittings(tmp_path: Path) -> None:
    for count in (2, 3):
        journal = Journal(tmp_path)
        Asker(Scripted(echo), journal).ask(asks(count))
    assert journal.bill() == [["toy", "answers", 3, 0, 15, 6]]


def test_a_pause_may_end_the_run_between_batches(tmp_path: Path) -> None:
    def pause(asked: int) -> None:
        if asked >= 4:
            raise TimeoutError

    speaker = Scripted(echo)
    with pytest.raises(TimeoutError):
        Asker(speaker, Journal(tmp_path), pause).ask(asks(10))
    assert len(speaker.asked) == 4 and len(Journal(tmp_path).known) == 4


def test_replies_of_servers() -> None:
    assert read_reply(said(" yes ")) == Reply("yes", None, True, 10, 3)
    assert read_reply(said("<think>\nhm\n</think>\n\nyes")).thinking == "hm"
    assert read_reply(said("yes", reasoning_content="hm")) == Reply("yes", "hm", True, 10, 3)
    assert not read_reply(said("ye", "length")).ended
    assert read_reply({"choices": []}).fault
    assert read_reply(Refused("too long", status=400)) == Reply(fault="too long")
    assert not read_reply(Refused("500, 6 times")).lasting
