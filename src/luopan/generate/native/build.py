"""Compiles `decode.c` for this machine at first use, and keeps the library beside other caches.

As `torch.compile` does: with the machine's own C compiler (`CC`, cc, gcc, clang), into the user's cache folder
(`XDG_CACHE_HOME` or ~/.cache, `luopan/native`), under a name made of the source, the compiler's version and the
processor's features, so that a folder shared between machines serves each its own. OpenMP is torch's: the library
leaves its symbols open and finds those that torch has loaded. Where there is no compiler, or LUOPAN_NATIVE=0, `reason`
says so and decoding goes through torch's operations, slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("decode.c")
# GCC's and clang's alike. No -ffast-math: infinities are used, and sums keep their order.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=fast", "-fno-math-errno")
_SECONDS = 120


def library() -> ctypes.CDLL:
    """The compiled library; only where `reason` is None."""
    loaded, why = _load()
    assert loaded is not None, why
    return loaded


def reason() -> str | None:
    """Why there is no library; None where there is."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get("LUOPAN_NATIVE") == "0":
        return None, "LUOPAN_NATIVE=0"
    if not (sys.platform.startswith("linux") or sys.platform == "darwin"):
        return None, f"not tried on {sys.platform}"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        return None, "no C compiler (cc, gcc or clang) is installed"
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return None, f"{compiler} failed: {said.strip().splitlines()[-1] if said.strip() else type(error).__name__}"
    found.scratch_floats.restype = ctypes.c_int64
    found.scratch_floats.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    found.forward.argtypes = [ctypes.c_void_p] * 3
    found.forward.restype = None
    return found, None


def _compiled(compiler: str) -> Path:
    """The library's file, made if it is not there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luopan" / "native"
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS).stdout
    key = "\0".join((_SOURCE.read_text(encoding="utf-8"), version, " ".join(_FLAGS), _processor()))
    target = folder / f"decode-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # the same file system: renaming is atomic
            made = Path(scratch) / target.name
            _compile(compiler, made)
            os.replace(made, target)
    return target


def _compile(compiler: str, target: Path) -> None:
    """Compile, with OpenMP and for this very processor where the compiler can."""
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    attempts = [[native, "-fopenmp"], [native], []] if _has_openmp() else [[native], []]
    # Two steps: linking with -fopenmp would bring a second OpenMP into the process, with threads of its own.
    linking = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    made = target.with_suffix(".o")
    for number, extra in enumerate(attempts, start=1):
        done = subprocess.run(
            [compiler, *_FLAGS, *extra, "-c", str(_SOURCE), "-o", str(made)],
            capture_output=True, text=True, timeout=_SECONDS, check=number == len(attempts),
        )  # fmt: skip
        if done.returncode == 0:
            break
    subprocess.run(
        [compiler, "-shared", *linking, str(made), "-o", str(target), "-lm"],
        capture_output=True, text=True, timeout=_SECONDS, check=True,
    )  # fmt: skip


def _has_openmp() -> bool:
    """Whether torch has loaded GNU's OpenMP where other libraries find it."""
    import torch  # noqa: F401  (it loads OpenMP)

    try:
        return bool(ctypes.CDLL(None).GOMP_parallel)
    except (AttributeError, OSError):
        return False


def _processor() -> str:
    """The processor's name and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
