"""Ordinary code in the sandbox: what is right passes, what is wrong fails and says why."""

from __future__ import annotations

import contextlib
import gzip
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from luopan.evals import verifiers
from luopan.evals.sandbox import Job, Limits, Outcome, Sandbox, SandboxError, run_code
from luopan.evals.verifiers import verifier_names, verify, verify_many
from luopan.evals.verify_code import code_all, program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox confines on Linux only")

ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("process", workers=2) as box:
        yield box


def outcome(sandbox: Sandbox, code: str, *tests: str, entry_point: str = "f", all_checks: bool = True) -> Outcome:
    return sandbox.run([Job(code, tests, entry_point, stop_at_first=not all_checks)])[0]


def test_right_code_passes_and_wrong_code_says_what_it_gave(sandbox: Sandbox) -> None:
    test = "assert add(1, 2) == 3\nassert add(2, 2) == 4\n"
    assert outcome(sandbox, ADD, test, entry_point="add") == Outcome(2, 2)
    wrong = outcome(sandbox, "def add(a, b):\n    return a * b\n", test, entry_point="add")
    assert (wrong.passed, wrong.total) == (1, 2) and wrong.reason == "assert add(1, 2) == 3: got 2"


@pytest.mark.parametrize(
    ("tests", "passed", "total"),
    [
        ("def check(candidate):\n    x=1\n    assert candidate(x)==2\n    for i in x,2:assert candidate(i)==2", 1, 2),
        ("def test_one():\n    assert f(1) == 2\ndef test_two():\n    assert f(2) == 2", 1, 2),
        ("def check(candidate):\n    if candidate(2) != 3: raise ValueError('no')", 1, 1),
        ("assert f(1) == 2, 'one'\nassert not f(2)", 1, 2),
        ("assert f(1) == 2\nf('a')", 1, 1),
    ],
)  # fmt: skip
def test_the_forms_of_tests(sandbox: Sandbox, tests: str, passed: int, total: int) -> None:
    found = outcome(sandbox, "def f(x):\n    return x + 1\n", tests)
    assert (found.passed, found.total) == (passed, total)


def test_a_list_of_tests_is_one_check_each(sandbox: Sandbox) -> None:
    tests = ("assert f(1) == 2\nassert f(2) == 3", "assert f(1) == 1", "f(3)")
    found = outcome(sandbox, "def f(x):\n    return x + 1\n", *tests)
    assert (found.passed, found.total, found.reason) == (2, 3, "assert f(1) == 1: got 2")


@pytest.mark.parametrize(
    "value",
    [
        "(1, [2.5, None], {'a': {3}})",
        "10**300",
        "-0.0",
        "b'x'",
        "1j",
        "{(1, 2): frozenset({3})}",
        "range(3)",
        "'\\ud83dé'",
    ],
)
def test_values_come_back_as_they_are(sandbox: Sandbox, value: str) -> None:
    test = f"got = f({value})\nassert repr(got) == repr({value})\nassert got == {value}"
    assert outcome(sandbox, "def f(x):\n    return x\n", test).passed == 2


def test_dates_fractions_and_decimals_come_back(sandbox: Sandbox) -> None:
    code = (
        "import datetime, decimal, fractions\n"
        "def f():\n    return [datetime.date(2020, 1, 2), decimal.Decimal('1.50'), fractions.Fraction(1, 3)]\n"
    )
    test = code + "x = f()\nassert got() == x\n"
    assert outcome(sandbox, code.replace("def f", "def got"), test, entry_point="got").passed == 1


def test_arguments_changed_in_place_are_seen(sandbox: Sandbox) -> None:
    code = "def f(items, table):\n    items.sort()\n    table['n'] = len(items)\n"
    test = "x, t = [3, 1], {}\nf(x, t)\nassert x == [1, 3]\nassert t == {'n': 2}"
    assert outcome(sandbox, code, test).passed == 2


def test_functions_of_the_tests_can_be_called_by_the_code(sandbox: Sandbox) -> None:
    code = "def f(g, items):\n    return [g(x) for x in items]\n"
    assert outcome(sandbox, code, "assert f(lambda x: x * 2, [1, 2]) == [2, 4]").passed == 1


def test_errors_can_be_expected(sandbox: Sandbox) -> None:
    code = "class Own(Exception): pass\ndef f(x):\n    raise ValueError('bad') if x else Own('mine')\n"
    caught = "try:\n    f({0})\nexcept {1} as error:\n    assert '{2}' in str(error)\nelse:\n    assert False"
    tests = (caught.format(1, "ValueError", "bad"), caught.format(0, "Exception", "mine"))
    assert outcome(sandbox, code, *tests).passed == 2
    assert outcome(sandbox, code, "assert f(1) == 1").reason == "ValueError: bad"


def test_classes_generators_and_constants_are_reached(sandbox: Sandbox) -> None:
    code = (
        "LIMIT = 3\nclass Stack:\n    def __init__(self): self.items = []\n"
        "    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n"
        "    def __iter__(self): return iter(self.items)\n"
        "def naturals():\n    n = 0\n    while True:\n        yield n\n        n += 1\n"
    )
    test = (
        "import itertools\ns = Stack()\ns.push(1)\ns.push(2)\nassert s.items == [1, 2]\nassert list(s) == [1, 2]\n"
        "assert s.pop() == 2\nassert len(s) == 1\nassert list(itertools.islice(naturals(), 3)) == [0, 1, 2]\n"
        "assert LIMIT == 3\nassert s == s"
    )
    found = outcome(sandbox, code, test, entry_point="Stack")
    assert found.passed == found.total == 7, found.reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(:", "the code does not load: SyntaxError"),
        ("import numpyy", "the code does not load: ModuleNotFoundError"),
        ("def g(): pass", "the answer defines no 'f'"),
        ("f = 3", "the answer defines no 'f'"),
    ],
)
def test_code_that_does_not_load_fails(sandbox: Sandbox, code: str, reason: str) -> None:
    found = outcome(sandbox, code, "assert f(1) == 1")
    assert found.passed == 0 and found.reason.startswith(reason)


@pytest.mark.parametrize("tests", ["assert f(1) ==", "x = 1", "", "def check(candidate): pass\nassert False ="])
def test_tests_that_are_none_are_not_the_answers_fault(sandbox: Sandbox, tests: str) -> None:
    found = outcome(sandbox, "def f(x): return x", tests)
    assert found.passed is None and "the tests cannot be used" in found.reason


def test_output_is_kept_and_bounded(sandbox: Sandbox) -> None:
    found = outcome(sandbox, "def f():\n    print('héllo')\n    return 1\n", "assert f() == 1")
    assert found.passed == 1 and found.output == "héllo\n"
    loud = outcome(sandbox, "def f():\n    print('x' * 5_000_000)\n    return 1\n", "assert f() == 1")
    assert loud.passed == 1 and len(loud.output) == Limits().output_bytes


def test_the_same_code_gives_the_same_result_each_time(sandbox: Sandbox) -> None:
    code = "import random\ndef f():\n    return [random.random(), list({'a', 'b', 'c', 'd', 'e'})]\n"
    test = "print_me = f()\nassert print_me == 0"
    assert len({outcome(sandbox, code, test).reason for _ in range(4)}) == 1


def test_many_jobs_keep_their_order_also_from_threads(sandbox: Sandbox) -> None:
    jobs = [Job(f"def f(): return {n}", (f"assert f() == {n - n % 3}",), "f") for n in range(9)]
    results: dict[int, list[int | None]] = {}

    def work(n: int) -> None:
        results[n] = [found.passed for found in sandbox.run(jobs)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [[1, 0, 0] * 3] * 3


def _in_fork(sandbox: Sandbox, results: multiprocessing.Queue[int | None]) -> None:
    results.put(outcome(sandbox, ADD, "assert add(1, 1) == 2", entry_point="add").passed)


def test_a_forked_process_may_use_its_parents_sandbox_even_with_the_lock_held(sandbox: Sandbox) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[int | None] = context.Queue()
    with sandbox._lock:
        child = context.Process(target=_in_fork, args=(sandbox, results))
        child.start()
    assert results.get(timeout=20) == 1
    child.join(20)
    assert child.exitcode == 0
    assert outcome(sandbox, ADD, "assert add(1, 1) == 2", entry_point="add").passed == 1


def test_a_warden_that_was_killed_is_replaced_and_a_closed_one_leaves_nothing() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Sandbox("process", workers=1) as box:
        assert outcome(box, ADD, "assert add(1, 1) == 2", entry_point="add").passed == 1
        wardens = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        assert wardens
        for child in wardens:
            with contextlib.suppress(psutil.NoSuchProcess):  # one goes with another
                child.kill()
        psutil.wait_procs(wardens, 5)
        assert outcome(box, ADD, "assert add(1, 1) == 2", entry_point="add").passed == 1
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_an_answer_whose_warden_dies_meanwhile_is_not_blamed() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Sandbox("process", workers=1) as box:
        assert box.level
        mine = [child for child in psutil.Process().children() if child.pid not in before]
        ending = threading.Timer(0.5, lambda: [child.kill() for child in mine])
        ending.start()
        found = outcome(box, "def f():\n    import time\n    time.sleep(5)", "assert f() == 1")
        ending.join()
    assert found.passed is None and "ended" in found.reason


def test_a_system_without_walls_is_refused_unless_told() -> None:
    bare = ("namespaces", "filters")
    with pytest.raises(SandboxError, match=r"no namespaces .* no Landlock"):
        Sandbox("auto", without=bare).run([Job(ADD, ("assert add(1, 1) == 2",), "add")])
    with Sandbox("process", without=bare) as box:
        assert box.level == "process"
        assert outcome(box, ADD, "assert add(1, 1) == 2", entry_point="add").passed == 1


def test_run_code_needs_no_sandbox_of_ones_own() -> None:
    assert run_code([Job(ADD, ("assert add(1, 1) == 2",), "add")], mode="process")[0].passed == 1


def test_the_verifier_takes_the_code_out_of_an_answer() -> None:
    args = {"tests": "assert add(1, 2) == 3\nassert add(0, 0) == 1", "entry_point": "add", "sandbox": "process"}
    text = f"<think>\nadd?\n</think>\nHere:\n```python\n{ADD}```\nIt adds."
    assert "code" in verifier_names()
    verdict = verify("code", text, **args)
    assert verdict.score == 0.0 and verdict.reason == "assert add(0, 0) == 1: got 0"
    assert verify("code", text, partial=True, **args).score == 0.5
    assert verify("code", "I do not know.", **args).score == 0.0
    assert verify("code", text, **{**args, "tests": "nothing here"}).score is None
    assert verify("code", text, timeout=0, **args).score is None
    assert verify("code", text, colour="red", **args).score is None


def test_code_all_grades_many_and_keeps_what_cannot_be_graded_apart() -> None:
    args = {"tests": "assert add(1, 2) == 3", "entry_point": "add"}
    rows = [args, {**args, "timeout": -1}, args, {**args, "tests": "assert ("}]
    scores = [v.score for v in code_all([ADD, ADD, "def add(a, b): return 0", ADD], rows, sandbox="process")]
    assert scores == [1.0, None, 0.0, None]
    own = [{**args, "sandbox": "process"}, {**args, "sandbox": "process", "partial": True}]
    assert [v.score for v in verify_many([verifiers.Job("code", ADD, row) for row in own])] == [1.0, 1.0]


PROMPT = 'from typing import List\n\ndef helper(x):\n    return x\n\ndef f(x: int) -> int:\n    """Add one."""\n'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("    return helper(x) + 1", 2),
        ("return helper(x) + 1\n\nprint('more')\ndef g(): pass", 2),
        ("```python\ndef f(x):\n    return helper(x) + 1\n```", 2),
        ("```\ndef f(x):\n    return 1\n```\nor rather\n```py\ndef f(x):\n    return 2\n```\nRun:\n```bash\nf\n```", 2),
        ("```python\ndef f(x):\n    return 2\n```\nUse it:\n```python\nprint(f(1))\n```", 2),
        ("~~~python\ndef f(x):\n    return 7", 7),
    ],
)
def test_forms_of_answers(answer: str, expected: int) -> None:
    namespace: dict[str, object] = {}
    exec(program(answer, "f", PROMPT), namespace)
    assert namespace["f"](1) == expected  # type: ignore[operator]


@pytest.mark.data
def test_every_canonical_solution_of_humaneval_passes_and_no_empty_one() -> None:
    folder = os.environ.get("LUOPAN_DATA")
    if not folder or not (Path(folder) / "eval/HumanEval.jsonl.gz").exists():
        pytest.skip("LUOPAN_DATA names no folder with eval/HumanEval.jsonl.gz")
    with gzip.open(Path(folder) / "eval/HumanEval.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    args = [{"tests": row["test"], "entry_point": row["entry_point"], "prompt": row["prompt"]} for row in rows]
    verdicts = code_all([row["canonical_solution"] for row in rows], args)
    failed = [row["task_id"] for row, verdict in zip(rows, verdicts) if not verdict.passed]
    assert len(rows) == 164 and failed == []
    assert not [v for v in code_all(["    return None\n"] * len(rows), args) if v.score != 0.0]
