"""The doors to the verifiers: arguments, batches, and rules that raise, hang, die or are not installed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
from importlib import import_module

import pytest

from luopan.evals import bounded, verifiers
from luopan.evals.verifiers import TABLE, Job, Rule, problem_with, verify, verify_many

HANGS = Job("pattern", "a" * 40 + "!", {"regex": "(a+)+$"})
RIGHT = Job("pattern", "abc", {"regex": "b"})


@pytest.mark.parametrize("name", TABLE)
def test_every_row_of_the_table_leads_to_a_function_with_a_docstring(name: str) -> None:
    rule = TABLE[name]
    found = getattr(import_module(f"luopan.evals.{rule.module}"), rule.function or name)
    kinds = [one.kind for one in inspect.signature(found).parameters.values()]
    assert found.__doc__ and set(kinds[1:]) <= {inspect.Parameter.KEYWORD_ONLY}
    assert not problem_with(name, {}) or "is missing" in problem_with(name, {})  # its annotations can be checked
    assert not rule.needs or rule.extra


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("number", {"answer": 5}, ""),
        ("numeric", {"answer": 5, "tolerance": 1}, ""),
        ("one_of", {"answers": ("a", "b")}, ""),
        ("number", {}, "'answer' is missing"),
        ("number", {"answer": 5, "tolerence": 1}, "there is no 'tolerence' (it takes answer)"),
        ("one_of", {"answers": "yes"}, "answers: "),
        ("one_of", {"answers": ["a", 5]}, "answers[1]: "),
        ("numeric", {"answer": 5, "tolerance": "1"}, "tolerance: "),
        ("math", {"answer": "5", "where": "somewhere"}, "where: "),
        ("length", {"unit": "miles", "min": 1}, "unit: "),
        ("numbr", {}, "there is no verifier 'numbr'"),
    ],
)
def test_arguments_are_judged_before_anything_is_graded(name: str, args: dict, told: str) -> None:
    problem = problem_with(name, args)
    assert told in problem and bool(problem) == bool(told)
    verdict = verify_many([Job(name, "5", args)])[0]
    assert (verdict.score is None) == bool(told)
    assert not told or verdict.reason == problem


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "number", Rule("verify_rules", needs=("no_such_package",), extra="verify"))
    verdict = verify("number", "5", answer=5)
    assert verdict.score is None and "no_such_package: pip install 'luopan[verify]'" in verdict.reason


def test_a_batch_keeps_its_order_through_all_doors() -> None:
    jobs = [
        Job("number", "5", {"answer": 5}),
        Job("pattern", "x", {"regex": "y"}),
        Job("number", "<think>\n5", {"answer": 5}),
        Job("zzz", "", {}),
        Job("thinking_format", "<think>\na\n</think>\nb", {"enable_thinking": True}),
        RIGHT,
    ]
    assert [verdict.score for verdict in verify_many(jobs)] == [1.0, 0.0, 0.0, None, 1.0, 1.0]
    assert verify_many([]) == []


def test_a_module_may_grade_its_batch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from luopan.evals import verify_rules

    seen = []

    def in_one_go(texts, args):
        seen.append(texts)
        return [verify_rules.exact(text, **own) for text, own in zip(texts, args)]

    monkeypatch.setattr(verify_rules, "in_one_go", in_one_go, raising=False)
    monkeypatch.setitem(TABLE, "exact", Rule("verify_rules", many="in_one_go"))
    jobs = [Job("exact", "a", {"answer": "a"}), Job("number", "5", {"answer": 5}), Job("exact", "b", {"answer": "a"})]
    assert [verdict.score for verdict in verify_many(jobs)] == [1.0, 1.0, 0.0]
    assert seen == [["a", "b"]]

    def fails(texts, args):
        raise OSError("no room")

    monkeypatch.setattr(verify_rules, "gone", fails, raising=False)
    monkeypatch.setitem(TABLE, "exact", Rule("verify_rules", many="gone"))
    verdicts = verify_many(jobs)
    assert [verdict.score for verdict in verdicts] == [None, 1.0, None] and "no room" in verdicts[0].reason


def test_a_verifier_that_raises_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from luopan.evals import verify_rules

    def raises(text: str) -> verifiers.Verdict:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(verify_rules, "raises", raises, raising=False)
    monkeypatch.setitem(TABLE, "raises", Rule("verify_rules"))
    verdict = verify("raises", "5")
    assert verdict.score is None and "ZeroDivisionError: by nought" in verdict.reason


def test_what_hangs_is_ended_off_the_main_thread_and_its_company_is_graded() -> None:
    found: list[verifiers.Verdict] = []
    thread = threading.Thread(target=lambda: found.extend(verify_many([RIGHT, HANGS, RIGHT], limit_s=1)))
    thread.start()
    thread.join()
    assert [verdict.score for verdict in found] == [1.0, None, 1.0]
    assert "1 s of processor time" in found[1].reason


def test_the_wall_s_clock_ends_what_uses_no_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = bounded.Helper()
    assert helper.grade([("pattern", "b", {"regex": "b"})], 1)[0].score == 1.0
    monkeypatch.setattr(bounded, "PATIENCE", 0.01)
    assert helper._process is not None
    os.kill(helper._process.pid, 19)  # SIGSTOP: it waits, and so would we
    verdict = helper.grade([("pattern", "b", {"regex": "b"})], 1)[0]
    helper.close()
    assert verdict.score is None and verdict.reason.startswith("no verdict after")


def test_a_helper_that_died_is_replaced_and_arguments_that_cannot_travel_are_told() -> None:
    helper = bounded.Helper()
    row = ("pattern", "b", {"regex": "b"})
    assert helper.grade([row], 1)[0].score == 1.0
    assert helper._process is not None
    helper._process.kill()
    helper._process.wait()
    assert helper.grade([row], 1)[0].score == 1.0
    told = helper.grade([("pattern", "b", {"regex": threading.Lock()})], 1)[0]
    assert told.score is None and "cannot be sent" in told.reason
    assert helper.grade([row], 1)[0].score == 1.0
    helper.close()


def test_the_memory_limit_is_the_system_s() -> None:
    code = (
        "from luopan.evals import bounded_worker as worker\n"
        "worker._limit('RLIMIT_AS', 1 << 30)\n"
        "try:\n    print(len(bytearray(2 << 30)))\nexcept MemoryError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"


def test_a_helper_that_does_not_start_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded.sys, "executable", "/bin/false")
    verdicts = bounded.Helper().grade([("pattern", "b", {"regex": "b"})] * 3, 1)
    assert [verdict.score for verdict in verdicts] == [None] * 3 and "does not start" in verdicts[0].reason


def test_a_helper_ends_with_its_parent() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("forks")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # a forked worker has helpers of its own and dies without a word to them
        helper = bounded.Helper()
        helper.grade([("pattern", "b", {"regex": "b"})], 1)
        os.write(writing, str(helper._process.pid if helper._process else 0).encode())
        os._exit(0)
    os.waitpid(child, 0)
    pid = int(os.read(reading, 20))
    deadline = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pid and not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except OSError:
        return False


def test_all_of_sees_the_thinking_and_passes_on_what_could_not_be_judged() -> None:
    raw = "<think>\nhm\n</think>\n5"
    checks = [
        {"name": "thinking_format", "args": {"enable_thinking": True}, "part": "form"},
        {"name": "number", "args": {"answer": 5}},
    ]
    verdict = verify("all_of", raw, checks=checks)
    assert verdict.score == 1.0 and verdict.parts == {"form": 1.0, "number": 1.0}
    assert verify("all_of", "5", checks=checks).parts == {"form": 0.0, "number": 1.0}
    assert verify("all_of", raw, checks=[*checks, {"name": "zzz"}]).score is None
    assert verify("all_of", raw, checks=[{"args": {}}]).score is None
