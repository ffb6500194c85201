"""The supervisor with real children: crashes are started again, back-off, giving up, signals passed on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from luopan.cli.main import run_verb
from luopan.errors import RecipeError
from luopan.pipeline.supervise import Place, Supervisor, reason, refuse_under_torchrun, run_command, where

# A child that crashes while there are lines in `crashes`: it makes progress if the line says so, then ends as told.
CHILD = """
import json, os, signal, sys
from pathlib import Path
run = Path(sys.argv[1])
stage = run / "train.partial"
stage.mkdir(parents=True, exist_ok=True)
todo = (run / "todo").read_text().split()
with open(run / "starts", "a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
if not todo:
    sys.exit(0)
step, end = todo[0].split(":")
(run / "todo").write_text(" ".join(todo[1:]))
with open(stage / "metrics.jsonl", "a") as file:
    file.write(json.dumps({"step": int(step)}) + "\\n")
if end.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, end))
sys.exit(int(end))
"""


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def supervisor(folder: Path, todo: str, **options) -> tuple[Supervisor, list[str], Clock]:
    folder.mkdir(exist_ok=True)
    (folder / "todo").write_text(todo)
    notes, clock = [], Clock()

    def command(left: float | None, again: bool) -> list[str]:
        return [sys.executable, "-c", CHILD, str(folder), f"{left}", f"{again}"]

    one = Supervisor(command, folder, notes.append, clock=clock, sleep=clock.sleep, **options)
    return one, notes, clock


def restarts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "restarts.jsonl").read_text().splitlines()]


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text().splitlines())


@pytest.mark.parametrize("code", [0, 1, 2, 75, 130])
def test_an_end_that_is_meant_is_passed_on(tmp_path: Path, code: int) -> None:
    one, notes, _ = supervisor(tmp_path, f"10:{code}")
    assert one.run() == code and starts(tmp_path) == 1 and not notes


@pytest.mark.parametrize("end", ["3", "74", "134", "SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_crash_is_started_again_and_noted(tmp_path: Path, end: str) -> None:
    one, notes, _ = supervisor(tmp_path, f"10:{end}")
    assert one.run() == 0 and starts(tmp_path) == 2
    line = restarts(tmp_path)[0]
    assert (line["stage"], line["step"], line["restart"], line["wait_seconds"]) == ("train", 10, 1, 1.0)
    assert len(notes) == 1 and "stage train, step 10" in notes[0]
    assert end != "SIGKILL" or "out of memory" in notes[0]


def test_the_wait_doubles_without_progress_and_starts_anew_with_it(tmp_path: Path) -> None:
    one, _, clock = supervisor(tmp_path, "10:3 10:3 20:3 30:3 30:3 40:3")
    assert one.run() == 0
    assert [line["wait_seconds"] for line in restarts(tmp_path)] == [1, 2, 1, 1, 2, 1]
    assert clock.now == 8


def test_the_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luopan.pipeline.supervise.SAME_PLACE_LIMIT", 99)
    one, _, _ = supervisor(tmp_path, "10:3 " * 11)
    assert one.run() == 0
    assert [line["wait_seconds"] for line in restarts(tmp_path)][7:] == [128, 256, 300, 300]


def test_three_failures_at_the_same_step_are_given_up(tmp_path: Path) -> None:
    one, notes, _ = supervisor(tmp_path, "10:3 20:SIGKILL 20:3 20:SIGKILL 30:0")
    assert one.run() == 3 and starts(tmp_path) == 4
    assert "3 times at the same place (stage train, step 20)" in notes[-1] and "SIGKILL" in notes[-1]
    assert len(restarts(tmp_path)) == 3


def test_three_failures_at_a_step_with_others_between_are_given_up_too(tmp_path: Path) -> None:
    """A run that falls back to an older checkpoint and fails there in turn goes in circles."""
    one, _, _ = supervisor(tmp_path, "20:3 20:3 30:3 30:3 30:3 40:3")
    assert one.run() == 3 and starts(tmp_path) == 5


def test_max_restarts(tmp_path: Path) -> None:
    one, notes, _ = supervisor(tmp_path, "10:3 20:3 30:3 40:3", max_restarts=2)
    assert one.run() == 3 and starts(tmp_path) == 3 and "after 2 restarts" in notes[-1]


def test_the_deadline_counts_over_all_starts(tmp_path: Path) -> None:
    one, notes, _ = supervisor(tmp_path, "10:3 10:3 20:3", stop_after=3.0)
    assert one.run() == 75 and "time given" in notes[-1]
    assert (tmp_path / "starts").read_text().split("\n")[:2] == ["3.0 False", "2.0 True"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_to_the_child_once_and_its_answer_counts(tmp_path: Path, number: int) -> None:
    script = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "count = []\n"
        "signal.signal(int(sys.argv[2]), lambda *a: count.append(1))\n"
        "Path(sys.argv[1], 'ready').touch()\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "sys.exit(130 if len(count) == 1 else 9)\n"
    )
    before = signal.getsignal(number)
    one = Supervisor(
        lambda left, again: [sys.executable, "-c", script, str(tmp_path), str(int(number))], tmp_path, print
    )

    def press() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=press)
    thread.start()
    assert one.run() == 130
    thread.join()
    assert signal.getsignal(number) is before


def test_a_signal_while_waiting_starts_no_other(tmp_path: Path) -> None:
    one, _, _ = supervisor(tmp_path, "10:3 10:3")
    one.sleep = lambda seconds: os.kill(os.getpid(), signal.SIGTERM)
    assert one.run() == 130 and starts(tmp_path) == 1


def test_a_child_that_dies_of_our_signal_is_not_started_again(tmp_path: Path) -> None:
    one = Supervisor(lambda left, again: ["sleep", "600"], tmp_path, print)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert one.run() == 130


def test_ctrl_c_on_the_terminal_does_not_reach_the_child_a_second_time(tmp_path: Path) -> None:
    """The terminal sends it to our whole process group; the child must be in another one."""
    script = f"import os; open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpgrp()))"
    assert Supervisor(lambda left, again: [sys.executable, "-c", script], tmp_path, print).run() == 0
    assert int((tmp_path / "group").read_text()) != os.getpgrp()


def test_where_a_run_is(tmp_path: Path) -> None:
    assert where(tmp_path / "nowhere") == Place("", 0) and str(Place("", 0)) == "before the first stage"
    for stage, since in (("pretrain", 5.0), ("sft", 9.0), ("grpo", 7.0)):
        (tmp_path / f"{stage}.partial").mkdir()
        (tmp_path / f"{stage}.partial" / ".stage.json").write_text(json.dumps({"since": since}))
    assert where(tmp_path) == Place("sft", 0)
    metrics = tmp_path / "sft.partial" / "metrics.jsonl"
    metrics.write_text('{"step": 10}\n{"step": 20}\n{"step": 3')
    assert where(tmp_path) == Place("sft", 20)
    (tmp_path / "sft.partial" / "checkpoints" / "step-000025").mkdir(parents=True)
    (tmp_path / "sft.partial" / "checkpoints" / ".step-000030.partial").mkdir(parents=True)
    assert where(tmp_path) == Place("sft", 25)


def test_a_full_disk_does_not_end_the_supervision(tmp_path: Path) -> None:
    one, notes, _ = supervisor(tmp_path, "10:3")
    (tmp_path / "restarts.jsonl").mkdir()
    assert one.run() == 0 and "could not be noted" in notes[0]


def test_fresh_is_asked_for_until_it_was_done(tmp_path: Path) -> None:
    began = time.time() - 10
    words = run_command(["r.yaml", "--runs", "x"], ["sft", "grpo"], tmp_path, began)
    assert words(None, False)[1:] == [
        "-m",
        "luopan",
        "run",
        "r.yaml",
        "--runs",
        "x",
        "--fresh",
        "sft",
        "--fresh",
        "grpo",
    ]
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "manifest.json").touch()  # made anew and finished
    (tmp_path / "grpo").mkdir()
    old = tmp_path / "grpo" / "manifest.json"
    old.touch()
    os.utime(old, (began - 100, began - 100))  # still the old one
    assert words(61.5, True)[7:] == ["--fresh", "grpo", "--stop-after", "62s"]
    (tmp_path / "grpo.partial").mkdir()
    (tmp_path / "grpo.partial" / ".stage.json").touch()  # begun anew: what it has done must not be thrown away
    assert words(None, True)[7:] == []
    assert "--fresh" in words(None, False), "the first start does what was asked, whatever lies there"


def test_not_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_under_torchrun()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="torchrun"):
        refuse_under_torchrun()


def test_reasons() -> None:
    assert reason(-9) == "SIGKILL (often: out of memory)" and reason(-11) == "SIGSEGV"
    assert reason(3) == "exit code 3" and "watchdog" in reason(74)


# ---- through the command line ----

FAKE = Path(__file__).with_name("fake_stages.py")
RECIPE = """\
name: trial
stages:
  first: {kind: make, text: one}
  slow: {kind: join, source: first, steps: 30, seconds_per_step: 0.1}
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-restarts", "3"], "no effect without --supervise"),
        (["--stop-after", "soon"], "no length of time"),
        (["--supervise", "nothing.at=all"], "nothing"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_verb("run", ["quickstart", *arguments]) == 2
    assert message in capfd.readouterr().err and not list(tmp_path.iterdir())


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "trial.yaml").write_text(RECIPE)
    command = [sys.executable, str(FAKE), str(tmp_path / "trial.yaml"), str(tmp_path / "runs"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(log: Path, count: int) -> None:
    for _ in range(1500):
        if log.exists() and len(log.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{log} never had {count} lines")


def test_sigterm_outside_a_training_ends_the_run_in_order(tmp_path: Path) -> None:
    one = start(tmp_path)
    wait_for_lines(tmp_path / "runs" / "trial" / "slow.partial" / "log.txt", 2)
    one.terminate()
    _, error = one.communicate(timeout=60)
    assert one.returncode == 130, error
    assert "interrupted in stage slow" in error and "Traceback" not in error
    note = json.loads((tmp_path / "runs" / "trial" / "slow.partial" / ".stage.json").read_text())
    assert note["seconds"] > 0 and "since" not in note, "the time spent was noted, as after Ctrl-C"


def test_the_deadline_ends_a_stage_that_does_not_train_with_75(tmp_path: Path) -> None:
    one = start(tmp_path, "--stop-after", "5s", "slow.steps=600")
    _, error = one.communicate(timeout=60)
    assert one.returncode == 75, error
    # On a machine that is busy the five seconds may be over before the stage begins.
    assert "interrupted in stage slow" in error or "up before stage" in error
    assert "same command" in error and "error:" not in error
