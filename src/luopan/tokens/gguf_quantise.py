"""GGUF files in the types that only llama.cpp rounds to: k-quants and the like, by its own quantiser.

It runs in a process of its own, because it ends the process where it does not like a file, and talks a lot.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from luopan.errors import ModelError
from luopan.model.gguf_tensors import DIRECT_TYPES

LLAMA_TYPES = (
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
GGUF_TYPES = (*DIRECT_TYPES, *LLAMA_TYPES)

_PROGRAM = """
import ctypes, sys
import llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3].upper())
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def check_type(name: str) -> None:
    """ModelError for a type that there is not, or whose quantiser is not installed."""
    if name not in GGUF_TYPES:
        raise ModelError(f"there is no type {name!r}", hint=f"Known: {', '.join(GGUF_TYPES)}")
    if name in LLAMA_TYPES and importlib.util.find_spec("llama_cpp") is None:
        raise ModelError(
            f"{name} is made by llama.cpp's own quantiser, and llama-cpp-python is not installed",
            hint=f"pip install luopan[llama] (compiles for minutes), or one of {', '.join(DIRECT_TYPES)}.",
        )


def quantise(source: Path, target: Path, name: str) -> None:
    """Write the f32 file `source` as `target` in a type of `LLAMA_TYPES`. Raises ModelError where llama.cpp fails."""
    command = [sys.executable, "-c", _PROGRAM, str(source), str(target), name]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == 0 and target.is_file():
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in said if "error" in line.lower() or "failed" in line.lower() or "assert" in line.lower()]
    last = (telling or said or [f"exit code {done.returncode}"])[-1]
    raise ModelError(f"llama.cpp's quantiser failed: {last}", where=source)
