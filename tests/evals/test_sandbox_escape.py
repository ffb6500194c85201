"""Code that tries to get out of the sandbox, at every level that confines: none of it may succeed.

None of them may do harm where the walls are down, for that is what these tests are there to find out: signals are 0,
files of the system are opened and not written, processes and memory have a bound.

Each attempt is a function `f` that returns "escaped" if it could do what it should not. `test_the_attempts_are_real`
runs those that do no harm without any walls, so that an attempt which fails for a reason of its own is noticed.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from luopan.evals.sandbox import Job, Limits, Outcome, Sandbox, SandboxError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox confines on Linux only")

LEVELS = {"namespaces": (), "filters": ("namespaces",)}


@pytest.fixture(scope="module", params=list(LEVELS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox("auto", workers=6, without=LEVELS[request.param]) as box:
        try:
            if box.level != request.param:
                pytest.skip(f"this system has no {request.param}")
        except SandboxError as error:
            pytest.skip(error.message)
        yield box


def attempt(sandbox: Sandbox, code: str, test: str = "assert f() == 'escaped'", **limits: float) -> Outcome:
    given = Limits(**{"cpu_seconds": 2.0, "wall_seconds": 4.0, **limits})  # type: ignore[arg-type]
    return sandbox.run([Job(code, (test,), "f", limits=given)])[0]


def assert_caught(found: Outcome, *reasons: str) -> None:
    assert found.passed == 0, found
    assert any(reason in found.reason for reason in reasons), found.reason


def tried(body: str) -> str:
    """A function that does `body` and returns "escaped", or what stopped it."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    frame = (
        "import os\ndef f():\n    try:\n{}\n    except Exception as e:\n        return repr(e)\n    return 'escaped'\n"
    )
    return frame.format(lines)


def all_denied(sandbox: Sandbox, bodies: list[str]) -> list[tuple[str, Outcome]]:
    """The attempts that were not answered with an error."""
    jobs = [Job(tried(body), ("assert f() == 'escaped'",), "f") for body in bodies]
    errors = ("Errno", "KeyError", "Error(")
    found = list(zip(bodies, sandbox.run(jobs)))
    return [(body, o) for body, o in found if o.passed != 0 or not any(error in o.reason for error in errors)]


@pytest.fixture
def harmless(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Attempts whose success would do nobody harm, and something to reach for."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    server = socket.create_server(("127.0.0.1", 0))
    local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    local.bind(str(tmp_path / "s"))
    local.listen()
    port = server.getsockname()[1]
    yield {
        "read": f"open({str(secret)!r}).read()",
        "list": f"assert os.listdir({str(tmp_path)!r})",
        "repository": f"open({__file__!r}).read()",
        "home": "os.listdir(os.path.expanduser('~root') if os.geteuid() == 0 else " + repr(str(Path.home())) + ")",
        "accounts": "open('/etc/passwd').read()",
        "write": f"open({str(tmp_path / 'written')!r}, 'w').write('x')",
        "append": f"open({str(secret)!r}, 'a').write('x')",
        "delete": f"os.rename({str(secret)!r}, {str(tmp_path / 'moved')!r})\n"
        f"os.rename({str(tmp_path / 'moved')!r}, {str(secret)!r})",
        "mode": f"os.chmod({str(secret)!r}, 0o600)",
        "times": f"os.utime({str(secret)!r})",
        "truncate": f"os.truncate({str(secret)!r}, 6)",
        "symlink": f"os.symlink({str(secret)!r}, {str(tmp_path / 'link')!r})",
        "tcp": f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).close()",
        "udp": f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "unix": f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})",
        "listen": "import socket\nsocket.create_server(('127.0.0.1', 0)).close()",
        "environment": "assert os.environ['LUOPAN_SECRET']",
        "parent": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
        "caller": f"os.listdir('/proc/{os.getpid()}/fd')",
        "memory of the caller": f"open('/proc/{os.getpid()}/maps').read()",
        "signal": f"os.kill({os.getpid()}, 0)",
        "fork": "if not os.fork(): os._exit(0)\nos.wait()",
        "exec": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
        "session": "if not os.fork():\n    os.setsid()\n    os._exit(0)\nassert os.wait()[1] == 0",
        "priority": "os.nice(1)",
        "limits": "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))",
    }
    server.close()
    local.close()


def test_the_attempts_are_real(harmless: dict[str, str]) -> None:
    code = "".join(f"{tried(body)}print({name!r}, f())\n" for name, body in harmless.items())
    environment = {**os.environ, "LUOPAN_SECRET": "secret"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    failed = [line for line in done.stdout.splitlines() if not line.endswith(" escaped")]
    assert failed == [] and len(done.stdout.splitlines()) == len(harmless)


def test_nothing_outside_is_reached(
    sandbox: Sandbox, harmless: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LUOPAN_SECRET", "secret")
    before = sorted(tmp_path.iterdir())
    assert all_denied(sandbox, list(harmless.values())) == []
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "secret.txt").read_text() == "secret"


TRICKS = [
    "open('/etc/shadow').read()",
    "os.open('/', os.O_WRONLY | os.O_TMPFILE)",
    "os.open('/etc', os.O_WRONLY | os.O_TMPFILE)",
    "os.open('/usr/lib', os.O_WRONLY | os.O_TMPFILE)",
    "open(os.__file__, 'a')",
    "open('/python/os.py', 'a')",
    "open('/tmp/../etc/passwd').read()",
    "os.symlink('/etc/passwd', '/tmp/l')\nopen('/tmp/l').read()",
    "os.symlink('/proc/1/root/etc/passwd', '/tmp/l')\nopen('/tmp/l').read()",
    "os.link('/etc/passwd', '/tmp/l')",
    "d = os.open('/', os.O_RDONLY)\nopen(os.open('../../etc/passwd', os.O_RDONLY, dir_fd=d)).read()",
    "os.chroot('/tmp')",
    "os.mknod('/tmp/null', 0o20600, os.makedev(1, 3))",
    "os.setuid(0)",
    "open('/proc/self/environ', 'rb').read()",
    "os.listdir('/proc/self/fd')",
    "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)",
    "os.open('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY)",
    "open('/dev/mem', 'rb').read(1)",
    "os.memfd_create('x')",
    "os.kill(-1, 0)",
    "os.killpg(0, 0)",
    "import pty\npty.openpty()",
    "import mmap\nmmap.mmap(os.open('/usr/lib', os.O_RDONLY), 4096)",
    "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
    "import resource\nresource.prlimit(2 ** 22 - 1, resource.RLIMIT_CPU)",
    "import _posixsubprocess, multiprocessing\nmultiprocessing.Process(target=print).start()",
    "import socket\nsocket.socketpair()",
    "import fcntl\nfcntl.fcntl(1, fcntl.F_SETOWN, 1)",
    "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')",
]


def test_tricks_with_files_and_calls(sandbox: Sandbox) -> None:
    assert all_denied(sandbox, TRICKS) == []


def test_nothing_is_open_but_the_channel(sandbox: Sandbox) -> None:
    code = (
        "import os\ndef f():\n    found = []\n    for n in range(3, 64):\n        try: os.fstat(n); found.append(n)\n"
        "        except OSError: pass\n    return len(found)\n"
    )
    assert attempt(sandbox, code, "assert f() == 1").passed == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
def test_raw_calls_are_refused(sandbox: Sandbox) -> None:
    """Every call that is not needed, by number: sockets, ptrace, mounts, keys, bpf, namespaces, other processes."""
    refused = (
        "41 socket, 42 connect, 49 bind, 53 socketpair, 46 sendmsg, 101 ptrace, 165 mount, 166 umount, 155 pivot_root, "
        "161 chroot, 272 unshare, 308 setns, 321 bpf, 250 keyctl, 248 add_key, 298 perf_event_open, 310 vm_readv, "
        "311 vm_writev, 59 execve, 322 execveat, 319 memfd_create, 425 io_uring_setup, 434 pidfd_open, "
        "438 pidfd_getfd, 424 pidfd_send_signal, 29 shmget, 68 msgget, 64 semget, 240 mq_open, 105 setuid, 126 capset, "
        "175 init_module, 169 reboot, 57 fork, 58 vfork, 62 kill, 200 tkill, 234 tgkill, 323 userfaultfd, "
        "442 mount_setattr, 429 move_mount, 428 open_tree, 444 landlock, 317 seccomp, 112 setsid, 139 sysfs, "
        "303 name_to_handle_at, 304 open_by_handle_at, 92 chown, 133 mknod, 141 setpriority, 157 prctl, 900 unknown"
    )
    numbers = [int(entry.split()[0]) for entry in refused.split(", ")]
    code = (
        "import ctypes\ndef f(numbers):\n    libc = ctypes.CDLL(None, use_errno=True)\n    got = []\n"
        "    for n in numbers:\n        ctypes.set_errno(0)\n        r = libc.syscall(n, 4, 0, 0, 0, 0, 0)\n"
        "        got.append((n, r, ctypes.get_errno()))\n    return got\n"
    )
    found = attempt(sandbox, code, f"got = f({numbers})\nassert [g for g in got if g[1:] != (-1, 1)] == []")
    assert found.passed == 1, found.reason
    namespaces = code.replace("libc.syscall(n, 4, 0", "libc.syscall(56, n, 0")
    flags = [0x10000000 | 17, 0x20000000 | 17, 17, 0x40000000 | 0x10000]
    found = attempt(sandbox, namespaces, f"got = f({flags})\nassert [g for g in got if g[1:] != (-1, 1)] == []")
    assert found.passed == 1, found.reason
    other_abi = attempt(sandbox, "import ctypes\ndef f():\n    ctypes.CDLL(None).syscall(0x40000000 + 39)\n")
    assert_caught(other_abi, "SIGSYS")


def below() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def left_behind(before: set[int]) -> set[int]:
    """Processes below this one that were not there before, once the sandbox had time to end them."""
    deadline = time.monotonic() + 10
    while (extra := below() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    return extra


FORKING = {
    "fork bomb": (
        "import os, time\ndef f():\n    me, refused = os.getpid(), 0\n    for _ in range(6):\n        try: os.fork()\n"
        "        except OSError: refused += 1\n    if os.getpid() != me: time.sleep(60)\n    return refused\n"
    ),
    "daemon": (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        if os.fork() == 0:\n            time.sleep(99)\n"
        "        os._exit(0)\n    return os.wait()[1]\n"
    ),
    "zombies": (
        "import os\ndef f():\n    for made in range(100):\n        try:\n            if os.fork() == 0: os._exit(0)\n"
        "        except OSError: return made\n"
    ),
    "stubborn": (
        "import os, signal, time\ndef f():\n    for s in range(1, 32):\n        try: signal.signal(s, signal.SIG_IGN)\n"
        "        except OSError: pass\n    if os.fork() == 0:\n        while True: time.sleep(1)\n    return 1\n"
    ),
}


@pytest.mark.parametrize("name", list(FORKING))
def test_processes_are_bounded_and_none_outlives_the_job(sandbox: Sandbox, name: str) -> None:
    before = below()
    found = attempt(sandbox, FORKING[name], "assert f() == 10**6", processes=2, threads=2, wall_seconds=0.8)
    if sandbox.level == "namespaces":
        got = int(found.reason.rpartition(" ")[2])
        bounds = {"fork bomb": range(3, 6), "zombies": range(1, 4), "daemon": (0,), "stubborn": (1,)}
        assert got in bounds[name]  # the daemon was started, and ended with the job
    else:
        assert_caught(found, "PermissionError", "got 0" if name == "zombies" else "got 6")
    assert left_behind(before) == set()


RESOURCES = [
    ("def f():\n    return len(bytearray(3 << 30))", "MemoryError"),
    ("def f():\n    return [bytes(10 << 20) for _ in range(200)]", "MemoryError"),
    ("def f():\n    return 'x' * (1 << 31)", "MemoryError"),
    ("def f():\n    return 'x' * (20 << 20)", "bytes are more than a message may have"),
    ("def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", "nested more than"),
    ("def f():\n    while True: pass", "not done after"),
    ("while True: pass", "not done after"),
    ("def f():\n    return 9 ** 9 ** 9 ** 9", "not done after"),
    ("def f():\n    import time\n    time.sleep(60)", "not done after"),
    ("def f():\n    import threading\n    threading.Event().wait()", "not done after"),
    ("def f():\n    while True: print('x' * 1000)", "not done after"),
    ("def f():\n    return f()", "RecursionError"),
    ("import sys\ndef f():\n    x = []\n    for _ in range(200_000): x=[x]\n"
     "    y = []\n    for _ in range(200_000): y=[y]\n    sys.setrecursionlimit(9**9)\n    x==y", "crashed (SIGSEGV)"),
    ("import ctypes\ndef f():\n    ctypes.string_at(1)", "crashed (SIGSEGV)"),
    ("import os\ndef f():\n    os.abort()", "crashed (SIG"),
    ("import os\nos._exit(0)", "ended its process (exit 0)"),
    ("import os, time\ndef f():\n    os.closerange(0, 64)\n    time.sleep(60)", "closed its channel"),
    ("class A:\n    def __del__(self):\n        while True: pass\ndef f():\n    A()", "not done after"),
    ("import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGSTOP)\n    while True: pass", "not done after"),
    ("import signal\nfor s in range(1, 65):\n    try: signal.signal(s, lambda *_: None)\n"
     "    except (OSError, ValueError): pass\ndef f():\n    while True: pass", "not done after"),
    ("import threading, time\ndef f():\n    made = []\n    while True:\n"
     "        made.append(threading.Thread(target=time.sleep, args=(2,), daemon=True))\n        made[-1].start()",
     "can't start new thread"),
]  # fmt: skip


def test_resources_run_out_and_the_caller_goes_on(sandbox: Sandbox) -> None:
    start, before = time.monotonic(), below()
    walls = {"not done after": 0.6}
    jobs = [
        Job(code, ("assert f() == 'escaped'",), "f", limits=Limits(20.0, walls.get(reason, 15.0)))
        for code, reason in RESOURCES
    ]
    found = sandbox.run(jobs)
    assert [(code, o) for (code, reason), o in zip(RESOURCES, found) if o.passed != 0 or reason not in o.reason] == []
    assert max(len(o.output) for o in found) == Limits().output_bytes and max(len(o.reason) for o in found) < 1000
    assert time.monotonic() - start < 60
    assert left_behind(before) == set()


def test_cpu_time_of_all_threads_counts(sandbox: Sandbox) -> None:
    code = (
        "import hashlib, threading\ndef w():\n    while True: hashlib.sha256(b'x' * 10**7)\n"
        "def f():\n    for _ in range(4): threading.Thread(target=w).start()\n    w()"
    )
    assert_caught(attempt(sandbox, code, cpu_seconds=1.0, wall_seconds=20.0), "used 1 s of CPU time")


def test_files_are_bounded_in_size_and_number(sandbox: Sandbox) -> None:
    big = tried("with open('/tmp/big', 'wb') as out:\n    while True: out.write(b'x' * 2**20)")
    assert_caught(attempt(sandbox, big), "File too large", "No space", "Permission")
    several = tried("for n in range(40): open(f'/tmp/{n}', 'wb').write(b'x' * 2**20)")
    assert_caught(attempt(sandbox, several), "No space", "Permission")
    many = tried("for n in range(5000): open(f'/tmp/{n}', 'wb').close()")
    assert_caught(attempt(sandbox, many), "No space", "Permission")


def test_nothing_stays_for_the_next_job(sandbox: Sandbox) -> None:
    leave = tried("open('/tmp/left', 'w').write('x')\nimport builtins\nbuiltins.left = 1")
    attempt(sandbox, leave)
    look = tried("import builtins\nassert os.path.exists('/tmp/left') or hasattr(builtins, 'left'), 'nothing'")
    assert_caught(attempt(sandbox, look), "nothing")


def test_a_hanging_answer_does_not_hang_a_thread_and_others_go_on(sandbox: Sandbox) -> None:
    hanging = Job("def f():\n    while True: pass", ("assert f() == 1",), "f", limits=Limits(1.0, 0.8))
    fine = Job("def f():\n    return 1", ("assert f() == 1",), "f")
    results: list[Outcome] = []
    worker = threading.Thread(target=lambda: results.extend(sandbox.run([hanging, fine, fine])))
    worker.start()
    worker.join(15)
    assert [found.passed for found in results] == [0, 1, 1]
