"""Votes: the file they are kept in, and what they add up to."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from scipy.stats import binomtest

from luopan.serve.tally import VotesFile, tally, tally_router, wilson


def vote(**changes: Any) -> dict[str, Any]:
    return {
        "suite": "s",
        "session": "1",
        "prompt": {"title": "p", "turns": ["Hi"]},
        "answers": [{"model": "a", "texts": ["one"]}, {"model": "b", "texts": ["two"]}],
        "parameters": {"temperature": 0.5},
        "vote": "win",
        "winner": "a",
    } | changes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "votes.jsonl"


@pytest.fixture
def client(file: Path) -> TestClient:
    app = FastAPI()
    app.include_router(tally_router(file))
    return TestClient(app)


def test_a_vote_is_a_line_with_all_that_is_needed_to_judge_it_again(client: TestClient, file: Path) -> None:
    import hashlib

    assert client.post("/api/compare/votes", json=vote()).status_code == 201
    [line] = file.read_text("utf-8").splitlines()
    row = json.loads(line)
    assert row["models"] == ["a", "b"] and row["winner"] == "a" and row["parameters"] == {"temperature": 0.5}
    assert [a["texts"] for a in row["answers"]] == [["one"], ["two"]]
    assert row["answers"][0]["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert row["prompt"]["turns"] == ["Hi"] and row["time"].endswith("+00:00") and len(row["id"]) == 32


def test_the_table_by_hand() -> None:
    row = {"models": ["a", "b"], "winner": None}
    votes = (
        [row | {"vote": "win", "winner": "a"}] * 3
        + [row | {"vote": "win", "winner": "b"}]
        + [row | {"vote": "tie"}] * 2
    )
    votes += [row | {"vote": "bad"}] * 4
    a, b = tally(votes)["models"]
    assert (a["model"], a["wins"], a["losses"], a["ties"], a["bad"], a["votes"]) == ("a", 3, 1, 2, 4, 6)
    assert a["score"] == pytest.approx((3 + 1) / 6) and b["score"] == pytest.approx((1 + 1) / 6)
    assert tally(votes)["pairs"][0] == {"a": "a", "b": "b", "wins": 3, "ties": 2, "losses": 1}


def test_of_three_models_the_winner_beats_each_other_and_nothing_is_said_of_those() -> None:
    votes = [{"models": ["a", "b", "c"], "vote": "win", "winner": "b"}]
    pairs = {(p["a"], p["b"]): p["wins"] for p in tally(votes)["pairs"]}
    assert pairs == {("b", "a"): 1, ("b", "c"): 1, ("a", "b"): 0, ("c", "b"): 0}


def test_only_bad_votes_give_no_score() -> None:
    [a, _] = tally([{"models": ["a", "b"], "vote": "bad", "winner": None}])["models"]
    assert a["score"] is None and a["low"] is None and a["bad"] == 1


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (5, 5), (3, 10), (50, 100), (1, 1)])
def test_the_interval_is_that_of_scipy(wins: int, n: int) -> None:
    expected = binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson(wins / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vote": "maybe"}, "vote"),
        ({"winner": "c"}, "winner"),
        ({"vote": "tie"}, "winner"),
        ({"vote": "tie", "winner": "c"}, "winner"),
        ({"vote": "bad", "winner": "c"}, "winner"),
        ({"winner": None}, "winner"),
        ({"answers": [{"model": "a", "texts": ["x"]}]}, "answers"),
        ({"answers": [{"model": "a", "texts": ["x"]}] * 2}, "itself"),
        ({"suite": ""}, "suite"),
        ({"surprise": 1}, "surprise"),
        ({"prompt": "text"}, "prompt"),
    ],
)
def test_a_vote_that_makes_no_sense_is_refused(
    client: TestClient, file: Path, change: dict[str, Any], word: str
) -> None:
    answer = client.post("/api/compare/votes", json=vote(**change))
    assert answer.status_code == 400 and word in answer.json()["error"]["message"]
    assert not file.exists()


def test_bodies_that_are_no_votes_are_refused(client: TestClient, file: Path) -> None:
    url = "/api/compare/votes"
    assert client.post(url, content=b"{").json()["error"]["code"] == "invalid_json"
    assert client.post(url, content=b"[1]").status_code == 400
    assert client.post(url, content=b"\xff\xfe").status_code == 400
    assert client.post(url, content=b"[" * 100_000).status_code == 400
    broken = json.dumps(vote(answers=[{"model": m, "texts": ["\ud800"]} for m in "ab"]))
    assert "Unicode" in client.post(url, content=broken).json()["error"]["message"]
    assert client.post(url, content=json.dumps(vote(parameters={"temperature": math.nan}))).status_code == 400
    assert client.post(url, json=vote(prompt={"x": "y" * (1 << 20)})).status_code == 413
    assert not file.exists()


def test_half_a_line_and_foreign_lines_are_passed_over(client: TestClient, file: Path) -> None:
    client.post("/api/compare/votes", json=vote())
    with open(file, "ab") as out:
        out.write(b'nonsense\n{"models": 3}\n{"id": "half')
    assert client.get("/api/compare/votes").json()["count"] == 1
    client.post("/api/compare/votes", json=vote(winner="b"))
    data = client.get("/api/compare/votes").json()
    assert data["count"] == 2 and data["models"][0]["votes"] == 2
    assert file.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "change",
    [{"suite": 5}, {"suite": None}, {"suite": []}, {"session": {}}, {"id": 3}, {"time": 0}, {"winner": ["a"]},
     {"winner": "c"}, {"vote": "tie"}, {"vote": "tie", "winner": "c"}],
)  # fmt: skip
def test_a_line_that_somebody_has_spoilt_is_passed_over(client: TestClient, file: Path, change: dict[str, Any]) -> None:
    client.post("/api/compare/votes", json=vote())
    whole = json.loads(file.read_text("utf-8"))
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps(whole | change) + "\n" + json.dumps(whole | {"suite": "t"}) + "\n")
    data = client.get("/api/compare/votes").json()
    assert data["count"] == 2 and data["suites"] == ["s", "t"]


def test_votes_are_counted_by_suite_and_session(client: TestClient) -> None:
    for suite, session in (("s", "1"), ("s", "2"), ("t", "1")):
        client.post("/api/compare/votes", json=vote(suite=suite, session=session))
    data = client.get("/api/compare/votes", params={"suite": "s"}).json()
    assert data["count"] == 2 and data["suites"] == ["s", "t"]
    assert client.get("/api/compare/votes", params={"session": "1"}).json()["count"] == 2
    assert "texts" not in data["votes"][0]["answers"][0]


def test_a_file_that_was_thrown_away_begins_anew(client: TestClient, file: Path) -> None:
    client.post("/api/compare/votes", json=vote())
    assert client.get("/api/compare/votes").json()["count"] == 1
    file.unlink()
    assert client.get("/api/compare/votes").json()["count"] == 0


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = FastAPI()
    app.include_router(tally_router(tmp_path / "file" / "votes.jsonl"))
    answer = TestClient(app, raise_server_exceptions=False).post("/api/compare/votes", json=vote())
    assert answer.status_code == 500 and "could not be written" in answer.json()["error"]["message"]


def _write(path: str, name: str) -> None:
    file = VotesFile(Path(path))
    for i in range(40):
        file.append({"id": f"{name}-{i}", "text": name * 3000})


def test_two_servers_may_share_the_file(file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(file), name)) for name in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(rows) == 80 and math.isclose(sum(row["id"].startswith("x") for row in rows), 40)
