"""The runs folder over HTTP: states, curves while they grow, and that nothing outside of it can be read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from luopan.report.data import series_from_metrics
from luopan.serve import metrics_file
from luopan.serve.metrics_file import MetricsReader, thin
from luopan.serve.run_state import read_run
from luopan.serve.runs import TICKET_SECONDS, Tickets, runs_router

STAGES = "  tok: {kind: tokenizer}\n  base: {kind: pretrain}\n  sft: {kind: sft}\n"
RECIPE = f"name: mine\ndescription: A test.\nstages:\n{STAGES}"


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run with a finished stage, one that is being made, and one that waits; a secret beside the folder."""
    folder = tmp_path / "runs"
    run = folder / "mine"
    write_json(
        run / "tok" / "manifest.json", {"kind": "tokenizer", "name": "tok", "seconds": 2.5, "identity": "ab" * 32}
    )
    figure = {"name": "loss", "before": 3.0, "after": 2.0, "headline": True}
    sample = {"messages": [{"role": "user", "content": "<b>"}], "answers": {"tok": {"text": "\ud800 half"}}}
    write_json(run / "tok" / "stage_report.json", {"summary": "S", "figures": [figure, 3], "samples": [sample, None]})
    (run / "tok" / "card.html").write_text("<h1>card</h1><script>1</script>", encoding="utf-8")
    (run / "recipe.lock.yaml").write_text(RECIPE, encoding="utf-8")
    (run / "report.html").write_text("<h1>report</h1>", encoding="utf-8")
    metrics = run / "base.partial" / "metrics.jsonl"
    write_json(run / "base.partial" / ".stage.json", {"identity": "x"})
    rows = [{"step": i, "loss": 5 / i, "learning_rate": 0.1, "tokens": i * 10} for i in range(1, 21)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "secret.txt").write_text("SECRET", encoding="utf-8")
    write_json(tmp_path / "other" / "tok" / "manifest.json", {"kind": "SECRET"})
    return folder


@pytest.fixture
def client(runs: Path) -> TestClient:
    app = FastAPI()
    app.include_router(runs_router(runs))
    return TestClient(app, raise_server_exceptions=False)


def hold_lock(runs: Path, pid: int, host: str, since: float | None = None) -> None:
    at = datetime.fromtimestamp(since or time.time(), UTC).isoformat(timespec="seconds")
    write_json(runs / "mine" / ".lock", {"pid": pid, "host": host, "since": at})


def states(client: TestClient) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in client.get("/api/runs/mine").json()["stages"]}


@pytest.fixture
def living() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


def test_the_list(client: TestClient, runs: Path) -> None:
    [run] = client.get("/api/runs").json()["runs"]
    assert (run["name"], run["description"], run["state"]) == ("mine", "A test.", "stopped")
    assert [stage["name"] for stage in run["stages"]] == ["tok", "base", "sft"]
    (runs / "no-run").mkdir()
    (runs / "file").write_text("")
    assert len(client.get("/api/runs").json()["runs"]) == 1


def test_a_folder_that_is_not_there_yet_is_an_empty_list(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(runs_router(tmp_path / "later"))
    assert TestClient(app).get("/api/runs").json()["runs"] == []


def test_a_stage_runs_while_the_holder_of_the_lock_lives(client: TestClient, runs: Path, living: int) -> None:
    assert states(client) == {"tok": "finished", "base": "stopped", "sft": "waiting"}
    hold_lock(runs, living, socket.gethostname())
    assert states(client)["base"] == "running"
    hold_lock(runs, living, socket.gethostname(), since=time.time() - 1e6)
    assert states(client)["base"] == "stopped", "the number was given to another process since"
    hold_lock(runs, 2**22 + 1, socket.gethostname())
    assert states(client)["base"] == "stopped"


def test_a_lock_of_another_machine_is_believed_while_files_change(runs: Path) -> None:
    hold_lock(runs, 1, "elsewhere")
    run = read_run(runs, "mine")
    later = read_run(runs, "mine", now=time.time() + 3600)
    assert run is not None and later is not None
    assert (run.state, later.state) == ("running", "stopped")


def test_a_crash_that_the_supervisor_noted_is_a_failure(client: TestClient, runs: Path) -> None:
    (runs / "mine" / "restarts.jsonl").write_text(json.dumps({"stage": "base", "exit_code": -9}) + "\n", "utf-8")
    assert states(client)["base"] == "failed"


@pytest.mark.parametrize("recipe", ["stages: [", "[]", "stages: 3", "a: &a [*a]\nstages: {x: 1}", "\x00"])
def test_a_recipe_that_cannot_be_read_hides_no_stage(client: TestClient, runs: Path, recipe: str) -> None:
    (runs / "mine" / "recipe.lock.yaml").write_text(recipe, encoding="utf-8")
    assert states(client) == {"base": "stopped", "tok": "finished"}


def test_a_stage_says_what_its_manifest_and_report_say(client: TestClient) -> None:
    stage = client.get("/api/runs/mine/stages/tok").json()
    assert (stage["summary"], stage["seconds"], stage["figures"][0]["after"]) == ("S", 2.5, 2.0)
    assert len(stage["figures"]) == 1
    assert client.get("/api/runs/mine/stages/sft").status_code == 404


def test_samples_with_half_characters_do_not_hurt(client: TestClient) -> None:
    [sample] = client.get("/api/runs/mine/stages/tok/samples").json()["samples"]
    assert sample["answers"]["tok"]["text"] == "\ud800 half"


# ---------------------------------------------------------------- curves


def test_curves_are_those_of_the_report(client: TestClient, runs: Path) -> None:
    data = client.get("/api/runs/mine/stages/base/metrics").json()
    rows = [json.loads(line) for line in (runs / "mine/base.partial/metrics.jsonl").read_text().splitlines()]
    expected = {name: [list(point) for point in points] for name, points in series_from_metrics(rows).items()}
    assert data["series"] == expected and data["rows"] == 20 and data["last"]["step"] == 20


def test_a_poll_gets_what_is_new_and_half_a_line_waits(client: TestClient, runs: Path) -> None:
    url = "/api/runs/mine/stages/base/metrics"
    first = client.get(url).json()
    assert client.get(url, params={"seen": first["version"]}).json()["unchanged"] is True
    with open(runs / "mine/base.partial/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 21, "lo')
        file.flush()
        assert client.get(url, params={"seen": first["version"]}).json()["unchanged"] is True
        file.write('ss": 0.5}\n')
    data = client.get(url, params={"seen": first["version"]}).json()
    assert data["series"]["loss"][-1] == [21.0, 0.5] and data["skipped"] == 0


def test_lines_that_are_no_metrics_are_passed_over(client: TestClient, runs: Path) -> None:
    with open(runs / "mine/base.partial/metrics.jsonl", "ab") as file:
        file.write(b'\xff\xfe\n[1]\n"x"\n{"loss": 1}\n{"step": "a"}\n{"step": NaN}\n{"step": true}\n\n')
        file.write(b'{"step": 30, "loss": NaN, "x": Infinity, "y": 1' + b"0" * 400 + b', "t": "text", "b": true}\n')
        file.write(b"[" * 50_000 + b"\n")
        file.write(b'{"step": 31, "loss": 1.5}\n')
    data = client.get("/api/runs/mine/stages/base/metrics").json()
    assert data["series"]["loss"][-2:] == [[30.0, None], [31.0, 1.5]] and data["skipped"] == 8
    assert "t" not in data["series"] and "b" not in data["series"]


def test_a_resumed_stage_replaces_what_it_logs_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": s, "loss": float(s)} for s in (1, 2, 3, 4)] + [
        {"step": 3, "loss": 30.0},
        {"step": 4, "loss": 40.0},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = MetricsReader()
    reader.update(tmp_path, ["metrics.jsonl"])
    assert reader.series["loss"] == series_from_metrics(rows)["loss"]


def test_a_file_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    file, reader = tmp_path / "metrics.jsonl", MetricsReader()
    for rows in ([{"step": 1, "a": 1}, {"step": 2, "a": 1}], [{"step": 1, "b": 1}]):
        file.unlink(missing_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reader.update(tmp_path, ["metrics.jsonl"])
    assert set(reader.series) == {"b"}


def test_big_files_are_thinned_and_spikes_stay(tmp_path: Path) -> None:
    spike = 61_234
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(100_000):
            file.write(f'{{"step": {step}, "loss": {9.0 if step == spike else 1.0}}}\n')
    reader, began = MetricsReader(), time.monotonic()
    reader.update(tmp_path, ["metrics.jsonl"])
    assert time.monotonic() - began < 20
    shown = reader.thinned(400)["loss"]
    assert len(reader.series["loss"]) <= metrics_file.HELD_POINTS and len(shown) <= 402
    assert (spike, 9.0) in shown and shown[0][0] == 0 and shown[-1][0] == 99_999
    assert [x for x, _ in shown] == sorted(x for x, _ in shown)


def test_one_poll_reads_only_so_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "READ_AT_ONCE_BYTES", 1000)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": 1}}\n' for i in range(200)))
    reader = MetricsReader()
    reader.update(tmp_path, ["metrics.jsonl"])
    assert 0 < reader.rows < 200 and reader.rest > 0
    for _ in range(10):
        reader.update(tmp_path, ["metrics.jsonl"])
    assert reader.rows == 200 and reader.rest == 0


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "MAX_LINE_BYTES", 100)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n' + "x" * 1000 + '\n{"step": 2, "a": 2}\n')
    reader = MetricsReader()
    reader.update(tmp_path, ["metrics.jsonl"])
    assert [x for x, _ in reader.series["a"]] == [1.0, 2.0] and reader.skipped > 0


def test_thinning_keeps_short_curves_and_gaps() -> None:
    assert thin([(1.0, 2.0), (2.0, None)], 10) == [(1.0, 2.0), (2.0, None)]
    gap = [(float(i), None if 40 <= i < 60 else 1.0) for i in range(100)]
    assert any(y is None for _, y in thin(gap, 20))


# ---------------------------------------------------------------- pages


def test_reports_open_by_a_ticket_under_a_policy_that_runs_nothing(client: TestClient) -> None:
    pages = [page["path"] for page in client.get("/api/runs/mine").json()["pages"]]
    assert pages == ["report.html", "tok/card.html"]
    url = client.post("/api/runs/mine/pages/tok/card.html").json()["url"]
    answer = client.get(f"/{url}")
    policy = answer.headers["content-security-policy"]
    assert answer.text.startswith("<h1>card</h1>") and answer.headers["content-type"].startswith("text/html")
    assert policy.startswith("sandbox;") and "script-src" not in policy and "default-src 'none'" in policy
    assert client.get("/reports/guess").status_code == 404


def test_tickets_grow_old_and_are_not_too_many() -> None:
    now = [0.0]
    tickets = Tickets(lambda: now[0])
    first = tickets.give(["a"])
    assert tickets.take(first) == ["a"]
    now[0] = TICKET_SECONDS + 1
    with pytest.raises(Exception, match="ticket"):
        tickets.take(first)
    given = [tickets.give([str(i)]) for i in range(300)]
    with pytest.raises(Exception, match="ticket"):
        tickets.take(given[0])
    assert tickets.take(given[-1]) == ["299"]


# ---------------------------------------------------------------- nothing outside

NAMES = [
    "..", ".", "../other", "..%2fother", "%2e%2e", "%2e%2e%2fother", "..\\other", "%5c..%5cother", "mine%00",
    "mine/../../other",
    "/etc", "~", ".lock", "link", "%ff", "a" * 5000, "mine%0a", "…", "link%2ftok",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(client: TestClient, runs: Path, tmp_path: Path, name: str) -> None:
    (runs / "link").symlink_to(tmp_path / "other")
    (runs / "mine" / "linked").symlink_to(tmp_path / "other" / "tok")
    for url in (
        f"/api/runs/{name}",
        f"/api/runs/{name}/stages/tok",
        f"/api/runs/mine/stages/{name}",
        f"/api/runs/mine/stages/{name}/metrics",
        f"/api/runs/mine/stages/{name}/samples",
    ):
        answer = client.get(url)
        assert "SECRET" not in answer.text and (answer.status_code in (404, 400) or '"mine"' in answer.text), url
    for page in (f"{name}/card.html", f"../{name}", "../../secret.txt", "tok/manifest.json", "tok/../../../secret.txt"):
        assert client.post(f"/api/runs/mine/pages/{page}").status_code in (404, 405), page


def test_links_are_not_followed(client: TestClient, runs: Path, tmp_path: Path) -> None:
    tok = runs / "mine" / "tok"
    for target, name in (("stage_report.json", "x"), ("samples.md", "y"), ("evil.html", "z")):
        (tok / target).unlink(missing_ok=True)
        (tok / target).symlink_to(tmp_path / "secret.txt")
        del name
    (runs / "mine" / "sft").symlink_to(tmp_path / "other" / "tok")
    metrics = runs / "mine" / "base.partial" / "metrics.jsonl"
    metrics.unlink()
    metrics.symlink_to(tmp_path / "secret.txt")
    assert "SECRET" not in client.get("/api/runs/mine/stages/tok/samples").text
    details = client.get("/api/runs/mine").json()
    assert "evil" not in json.dumps(details) and states(client)["sft"] == "waiting"
    assert client.post("/api/runs/mine/pages/tok/evil.html").status_code == 404
    assert client.get("/api/runs/mine/stages/base/metrics").json()["rows"] == 0


def test_a_link_put_in_place_after_the_ticket_was_given_is_not_followed(
    client: TestClient, runs: Path, tmp_path: Path
) -> None:
    url = client.post("/api/runs/mine/pages/tok/card.html").json()["url"]
    (runs / "mine/tok/card.html").unlink()
    (runs / "mine/tok/card.html").symlink_to(tmp_path / "secret.txt")
    assert client.get(f"/{url}").status_code == 404


def test_a_pipe_in_the_folder_does_not_hang(client: TestClient, runs: Path) -> None:
    metrics = runs / "mine" / "base.partial" / "metrics.jsonl"
    metrics.unlink()
    os.mkfifo(metrics)
    began = time.monotonic()
    assert client.get("/api/runs/mine/stages/base/metrics").json()["rows"] == 0
    assert time.monotonic() - began < 5


def test_names_with_markup_are_only_names(client: TestClient, runs: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    write_json(runs / name / "tok" / "manifest.json", {"kind": "tokenizer", "name": "tok"})
    assert name in [run["name"] for run in client.get("/api/runs").json()["runs"]]
    answer = client.get(f"/api/runs/{quote(name, safe='')}")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
