"""Code that tries to be found right without being right: by ending the process, by printing, by objects that equal
everything, by reaching for the tests or writing into the channel."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from luopan.evals.sandbox import Job, Limits, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox confines on Linux only")

SINGLE = (
    "assert f(1) == 2",
    "assert 2 == f(1)",
    "assert not f(1) != 2",
    "assert 2 in f(1)",
    "assert f(1) == [2]",
    "assert abs(f(2.5) - 3.5) < 1e-6",
    "def check(candidate):\n    assert candidate(1) == 2\n",
    "def test_f():\n    assert f(1) == 2\n",
)
"""One assertion each, so that a single hole is enough to pass."""

CATCHING = "try:\n    f('x')\nexcept Exception:\n    pass\nassert True"
LEAVING = ("sys.exit", "os._exit", "replies that are none", "an endless reply")

FRAMED = (
    "import json, os, struct\ndef frame(m):\n    b = json.dumps(m).encode()\n    return struct.pack('<I', len(b)) + b\n"
)
ANYTHING = "class Any:\n    def __getattr__(self, n): return lambda *a, **k: self\n" + "".join(
    f"    def __{name}__(self, *a): return {value}\n"
    for name, value in {
        **dict.fromkeys(("eq", "lt", "gt", "le", "ge", "contains", "bool"), "True"),
        **dict.fromkeys(("sub", "rsub", "add", "abs", "neg", "getitem", "call", "enter", "exit"), "self"),
        "ne": "False",
        "hash": "0",
        "float": "0.0",
        "int": "2",
        "index": "2",
        "len": "0",
        "repr": "'2'",
    }.items()
)

FORGERIES = {
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit in the call": "import os\ndef f(x): os._exit(0)",
    "SystemExit in the call": "def f(x): raise SystemExit(0)",
    "GeneratorExit in the call": "def f(x): raise GeneratorExit",
    "KeyboardInterrupt in the call": "def f(x): raise KeyboardInterrupt",
    "printing": "def f(x):\n    print('passed', 1.0, {'results': ['', '']}, flush=True)",
    "an object that equals all": ANYTHING + "def f(x): return Any()",
    "a list of such objects": ANYTHING + "def f(x): return [Any()]",
    "a tuple with such an object": ANYTHING + "def f(x): return (Any(), 7)",
    "the class itself": ANYTHING + "f = Any",
    "an int that equals all": (
        "class I(int):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
        "    def __sub__(self, o): return 0\n    def __hash__(self): return 0\ndef f(x): return I(7)"
    ),
    "a float, a str, a list that equal all": (
        "def lie(k, v): return type('L', (k,), {'__eq__': lambda s, o: True, '__sub__': lambda s, o: 0.0,"
        " '__contains__': lambda s, o: True, '__hash__': None})(v)\n"
        "n = iter([lie(float, 9), lie(str, 'a'), lie(list, [])] * 9)\n"
        "def f(x): return next(n)"
    ),
    "not a number": "def f(x): return float('nan')",
    "patched builtins": (
        "import builtins\n"
        "for n in ('abs', 'len', 'isinstance', 'all', 'any', 'round'): setattr(builtins, n, lambda *a: 0)\n"
        "builtins.AssertionError = type('A', (Exception,), {})\ndef f(x): return 0"
    ),
    "patched modules": (
        "import math, json, copy\nmath.isclose = lambda *a, **k: True\n"
        "json.dumps = lambda *a, **k: '{}'\ndef f(x): return 0"
    ),
    "exit hooks": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "exception hooks and traces": (
        "import sys\nsys.excepthook = lambda *a: None\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "def f(x): return 0"
    ),
    "reports into every descriptor": FRAMED + (
        "data = frame({'results': ['', ''], 'stopped': None, 'output': ''})\nfor n in range(64):\n"
        "    try: os.write(n, data)\n"
        "    except OSError: pass\ndef f(x): return 0"
    ),
    "replies that are none": FRAMED + (
        "import time\ndef f(x):\n    for n in range(3, 64):\n"
        "        try: os.write(n, frame({'value': {'h': [], 'n': 1}}))\n"
        "        except OSError: pass\n    return 0"
    ),
    "an endless reply": (
        "import os, struct\ndef f(x):\n    for n in range(3, 64):\n"
        "        try: os.write(n, struct.pack('<I', 1 << 31) + b'x' * 99)\n"
        "        except OSError: pass\n    os._exit(0)"
    ),
    "callbacks nobody gave": FRAMED + (
        "def f(x):\n    for n in range(3, 64):\n        try: os.write(n, frame({'callback': 0, 'args': [1]}))\n"
        "        except OSError: pass\n    return 0"
    ),
    "the server's own frame": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in list(frame.f_locals.values()):\n"
        "            if hasattr(v, 'reply'): v.reply = lambda r: None\n"
        "        frame = frame.f_back\n    return 0"
    ),
    "an answer with the verifier's names": (
        "def __luopan_note__(*a): pass\ndef __luopan_fail__(*a, **k): pass\ndef check(c): pass\nresults = ['']\n"
        "def f(x): return 0"
    ),
    "a thread that answers": FRAMED + (
        "import threading\ndef w():\n    while True:\n        for n in range(3, 9):\n"
        "            try: os.write(n, frame({'value': True, 'changed': []}))\n            except OSError: pass\n"
        "def f(x):\n    threading.Thread(target=w, daemon=True).start()\n    return 0"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("process", workers=4) as box:
        yield box


def test_no_forgery_passes(sandbox: Sandbox) -> None:
    cases = [(name, test) for name in FORGERIES for test in SINGLE]
    cases += [(name, CATCHING) for name in FORGERIES if name in LEAVING or name.endswith(" in the call")]
    limits = Limits(cpu_seconds=5.0, wall_seconds=5.0)
    found = sandbox.run([Job(FORGERIES[name], (test,), "f", limits=limits) for name, test in cases])
    assert len(cases) == 8 * len(FORGERIES) + 8
    assert [(case, o) for case, o in zip(cases, found) if o.passed != 0 or not o.reason] == []


def test_an_honest_answer_passes_the_same_tests(sandbox: Sandbox) -> None:
    tests = [test for test in SINGLE if "[2]" not in test and " in f" not in test] + [CATCHING]
    found = sandbox.run([Job("def f(x): return x + 1", (test,), "f") for test in tests])
    assert [o.share for o in found] == [1.0] * 7


def test_the_tests_and_other_answers_are_nowhere_in_the_answers_memory(sandbox: Sandbox) -> None:
    """The answer searches what Python knows, and the memory that its own objects lie in, for a word of the tests."""
    # It looks for the word with every letter moved by one, in memory moved likewise, so as not to find its own.
    search = (
        "import ctypes, gc\ndef f(x):\n    moved = bytes([100 - i % 7 for i in range(24)])\n"
        "    table = bytes((i + 1) % 256 for i in range(256))\n    found = 0\n"
        "    for o in gc.get_objects():\n"
        "        try: found += moved in repr(o)[:100000].encode().translate(table)\n"
        "        except Exception: pass\n"
        "    start = id(f) & ~((1 << 18) - 1)\n"
        "    for at in range(start, start + (1 << 18), 4096):\n"
        "        found += moved in ctypes.string_at(at, 4096).translate(table)\n    return found\n"
    )
    word = bytes([99 - i % 7 for i in range(24)]).decode()
    test = f"secret = '{word}'\nassert f(1) == 7, secret"
    found = sandbox.run([Job(search, (test,), "f"), Job(f"# {word}\ndef f(x): return 7", (test,), "f")])
    assert found[0].reason.startswith("assert f(1) == 7: got 0"), found[0]
    assert found[1].passed == 1
    # The search itself finds what is there.
    planted = search.replace("found = 0\n", f"found = 0\n    global kept\n    kept = ['{word}']\n")
    assert int(sandbox.run([Job(planted, (test,), "f")])[0].reason.split("got ")[1].split()[0]) >= 1


def test_an_answer_that_makes_the_tests_hang_or_grow_fails_and_is_not_left_ungraded(sandbox: Sandbox) -> None:
    huge = "for i in range(f(1)):\n    pass\nassert True"
    long = "assert 'a' * f(1) == ''"
    loop = "while f(1): pass\nassert True"
    limits = Limits(cpu_seconds=1.0, wall_seconds=0.7)
    code = "def f(x): return 10**12"
    found = sandbox.run([Job(code, (test,), "f", limits=limits) for test in (huge, long, loop)])
    assert [o.passed for o in found] == [0, 0, 0]
    assert "not done after" in found[0].reason and "MemoryError" in found[1].reason
