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
        found = _compiled(compiler)
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return None, f"{compiler} failed: {said[-1] if said else type(error).__name__}"
    except (OSError, RuntimeError) as error:  # no home, a full disk, a library that cannot be loaded
        return None, str(error)
    found.scratch_floats.restype = ctypes.c_int64
    found.scratch_floats.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    found.forward.argtypes = [ctypes.c_void_p] * 3
    found.forward.restype = None
    found.draw.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3]
    found.draw.restype = None
    return found, None


def _compiled(compiler: str) -> ctypes.CDLL:
    """The library, compiled if it is not there, or is there and cannot be loaded."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luopan" / "native"
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS).stdout
    parts = (_SOURCE.read_text(encoding="utf-8"), version, " ".join(_FLAGS), _processor(), str(_has_openmp()))
    target = folder / f"decode-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    if target.is_file() and _is_ours(target):
        try:
            return ctypes.CDLL(str(target))
        except OSError:  # damaged: made anew
            target.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # the same file system: renaming is atomic
        made = Path(scratch) / target.name
        _compile(compiler, made)
        with made.open("rb+") as file:
            os.fsync(file.fileno())  # a file cut short would not fail to load but crash when it is used
        os.replace(made, target)
    return ctypes.CDLL(str(target))


def _is_ours(file: Path) -> bool:
    """Whether nobody but this user can have written it: it is about to be run."""
    found = file.stat()
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)


def _compile(compiler: str, target: Path) -> None:
    """Compile, with OpenMP and for this very processor where that gives something that loads."""
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    attempts = [[native, "-fopenmp"], [native], []] if _has_openmp() else [[native], []]
    # Two steps: linking with -fopenmp would bring a second OpenMP into the process, with threads of its own.
    linking = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    for number, extra in enumerate(attempts, start=1):
        made = target.with_suffix(f".{number}.o")
        try:
            _run([compiler, *_FLAGS, *extra, "-c", str(_SOURCE), "-o", str(made)])
            _run([compiler, "-shared", *linking, str(made), "-o", str(target), "-lm"])
            if "-fopenmp" in extra:
                ctypes.CDLL(str(target), mode=os.RTLD_NOW)  # clang asks for another OpenMP than torch has loaded
            return
        except (OSError, subprocess.SubprocessError):
            if number == len(attempts):
                raise


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)


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
