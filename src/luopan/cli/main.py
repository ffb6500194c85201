"""`luopan VERB …`: finds the verb, runs it, and turns whatever it raises into a message and an exit code.

0 done, 1 findings, 2 a mistake of the user's, 3 a failure of ours, 74 ended by its own watchdog (`train/watchdog.py`),
75 stopped by --stop-after or because an endpoint is away, 130 interrupted. The list of verbs is static and a verb's
module is imported only when it is asked for: `luopan --help` imports neither typer nor anything heavier.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

VERBS = {
    "run": "run a recipe: every stage, only what is not done yet",
    "recipes": "list, show or copy the recipes that come with luopan",
    "schema": "what a recipe may hold, as JSON schema or as a table",
    "doctor": "what this machine has, how fast it is, what is missing",
    "bench": "measure matrix products, memory, disk, data and collectives, beside the data sheet",
    "generate": "continue a prompt with a model",
    "chat": "talk to a model",
    "serve": "serve models behind the OpenAI API, with a page to talk to them",
    "eval": "ask a model held-out questions and grade the answers",
    "compass": "why, what and how, before anything is trained: a specification and a recipe",
    "check": "what would go wrong with a recipe, before compute is spent",
    "plan": "parameters, FLOPs, memory, time, cost and layout, before a device is touched",
    "ablate": "one change at a time against a baseline, with seeds, a verdict and a ledger",
    "scale": "train a family of sizes, fit a scaling law, predict a larger training",
    "sweep": "train one stage with several settings and seeds, and compare",
    "merge": "make one model out of the weights of several",
    "report": "rebuild a run's report, or show where a model came from",
    "rollouts": "page through what a policy said while it learnt, and what it was worth",
    "corpus": "make a corpus, look at what was kept and rejected, try thresholds",
    "tokenizer": "look at a tokenizer, compare tokenizers on a text, add tokens to a model",
    "export": "copy a model out: Hugging Face folder, GGUF for llama.cpp and Ollama, adapter",
    "push": "put an exported model on the Hugging Face Hub",
    "template": "look at chat templates: what they make of conversations, what is trained, what is wrong",
}

EXAMPLES = """\
Examples:
  luopan run quickstart                     a small chat model from raw text, in minutes on a laptop
  luopan run quickstart sft.learning_rate=1e-3
  luopan chat runs/quickstart/grpo
  luopan serve runs/quickstart/grpo         a page to talk to it, and the OpenAI API
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the `luopan` command; leaves through `sys.exit`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a run
    # Read when torch loads its OpenMP library. With the default, waiting threads spin for milliseconds, and a training
    # step took 12 times as long beside one busy neighbour on two cores (8.4 s instead of 0.7 s; docs/log.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and words[:1] == ["run"]:
        start_with_allocator_set()
    if not words or words[0] in ("--help", "-h", "help"):
        sys.exit(show(overview()))
    if words[0] in ("--version", "-V"):
        from importlib.metadata import version

        sys.exit(show(f"luopan {version('luopan')}"))
    sys.exit(run_verb(words[0], words[1:]))


def start_with_allocator_set() -> None:
    """Start this program once more, with glibc's per-thread cache off, which is read at start only.

    The cache holds back the ends that torch's aligned blocks are trimmed by, so that a freed block is not found again:
    training takes up to a sixth more memory with it (`luopan.train.device.tune_allocator`, docs/log.md).
    """
    given, wanted = os.environ.get("GLIBC_TUNABLES", ""), "glibc.malloc.tcache_count"
    tuned = os.environ.get("LUOPAN_TUNE_ALLOCATOR") != "0" and "LD_PRELOAD" not in os.environ
    if not (sys.platform.startswith("linux") and tuned) or wanted in given:
        return
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        glibc = False
    if glibc:
        os.environ["GLIBC_TUNABLES"] = f"{given}:{wanted}=0".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def overview() -> str:
    """What `luopan --help` prints."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb:<{width}}{summary}" for verb, summary in VERBS.items())
    return (
        "Usage: luopan VERB [OPTIONS] ...\n\n"
        "Trains small language models from raw text to an aligned chat model, out of one recipe.\n\n"
        f"Verbs (luopan VERB --help says more):\n{verbs}\n\n{EXAMPLES}\n"
        "Exit codes: 0 done, 1 findings, 2 a mistake in what was asked, 3 a failure of luopan, 75 stopped by\n"
        "--stop-after or because an endpoint is away (run it again), 130 interrupted.\n"
        "LUOPAN_TRACEBACK=1 shows the traceback of an error."
    )


def show(text: str) -> int:
    """Prints, also to a reader that leaves before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return _reader_gone()
    return 0


def _reader_gone() -> int:
    # `luopan … | head`: nothing more can be said, not even by the interpreter's last flush.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Runs one verb and returns the exit code; every error ends here."""
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        meant = f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(VERBS)}"
        return _say(f'error: there is no verb "{verb}"{meant}', 2)
    try:
        # The module names are the verbs; `eval` and friends are words of Python, so they wear a suffix.
        module = importlib.import_module(f"luopan.cli.{verb}_verb")
        module.app(args=list(arguments), prog_name=f"luopan {verb}")
    except SystemExit as leaving:
        return _exit_code(leaving)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        return _reader_gone()
    except BaseException as error:  # torch's CheckpointException is no Exception
        return _failed(error)
    return 0


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    return _say(str(leaving.code), 1)


def _failed(error: BaseException) -> int:
    from luopan.errors import LuopanError

    shown = os.environ.get("LUOPAN_TRACEBACK", "") not in ("", "0")
    if shown:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, LuopanError):
        word = "" if error.exit_code in (75, 130) else "error: "
        return _say(f"{word}{error}", error.exit_code)
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    where = "" if shown else f"\n  The traceback is in {_keep_traceback(error)}; LUOPAN_TRACEBACK=1 shows it."
    return _say(f"failure of luopan: {text}{where}", 3)


def _keep_traceback(error: BaseException) -> str:
    """Writes the traceback to a file of its own and returns its path."""
    import shlex
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="luopan-failure-", suffix=".log", delete=False
    ) as file:
        file.write(f"luopan {shlex.join(sys.argv[1:])}\nin {os.getcwd()}\n\n")
        file.writelines(traceback.format_exception(error))
    return file.name


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
