"""The verifier `code`: what an answer's program does under unit tests, run in a sandbox.

The code is taken out of the answer (the last fenced block that defines the entry point, else the last block, else all
of it); with a `prompt` in HumanEval's form a text that does not define the entry point is taken as its continuation.
An answer that cannot be run at all (no code, a syntax error, a crash, out of time or memory) scores 0. None means that
the tests could not be used or that nothing here can confine code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from luopan.errors import LuopanError
from luopan.evals.sandbox import Job, Limits, Mode, Outcome, Sandbox, SandboxError
from luopan.evals.verifiers import Verdict

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_LANGUAGES = ("", "python", "py", "python3")


def code(
    text: str,
    *,
    tests: str | Sequence[str],
    entry_point: str = "",
    prompt: str = "",
    setup: str = "",
    partial: bool = False,
    timeout: float = 5.0,
    memory_mb: int = 512,
    sandbox: Mode = "auto",
) -> Verdict:
    """1 if every test passes, else 0; with `partial` the share that passes.

    `tests` is a source (HumanEval's `check(candidate)`, functions `test_…`, or plain assertions) or a list of them, one
    test each. `prompt` (HumanEval's) and `setup` run beside the tests and may define what they use. `timeout` is in
    seconds of CPU for all tests; twice that may pass on the clock.
    """
    try:
        job = as_job(text, tests, entry_point, prompt, setup, partial, timeout, memory_mb)
        return as_verdict(_sandbox(sandbox).run([job])[0], partial)
    except LuopanError as error:
        return Verdict(None, error.message)


def code_all(texts: Sequence[str], args: Sequence[Mapping[str, Any]], sandbox: Mode = "auto") -> list[Verdict]:
    """`code` for many answers at once, in parallel; `args` are the verifier's arguments of each, where `sandbox` may
    be another than the one for all."""
    verdicts: dict[int, Verdict] = {}
    jobs: dict[Mode, dict[int, Job]] = {}
    for at, (text, arguments) in enumerate(zip(texts, args, strict=True)):
        rest = {name: value for name, value in arguments.items() if name != "sandbox"}
        try:
            jobs.setdefault(arguments.get("sandbox", sandbox), {})[at] = as_job(text, **rest)
        except (LuopanError, TypeError) as error:
            verdicts[at] = Verdict(None, str(error))
    for mode, batch in jobs.items():
        try:
            outcomes = _sandbox(mode).run(list(batch.values()))
        except SandboxError as error:
            verdicts.update(dict.fromkeys(batch, Verdict(None, error.message)))
            continue
        verdicts.update((at, as_verdict(o, bool(args[at].get("partial")))) for at, o in zip(batch, outcomes))
    return [verdicts[at] for at in range(len(verdicts))]


def as_job(
    text: str,
    tests: str | Sequence[str],
    entry_point: str = "",
    prompt: str = "",
    setup: str = "",
    partial: bool = False,
    timeout: float = 5.0,
    memory_mb: int = 512,
) -> Job:
    """The job that `code` runs. LuopanError where the limits make no sense."""
    if not 0 < timeout <= 600 or memory_mb < 128:
        raise LuopanError(f"timeout {timeout} s and {memory_mb} MB of memory are no limits to run code within")
    return Job(
        code=program(text, entry_point, prompt),
        tests=(tests,) if isinstance(tests, str) else tuple(tests),
        entry_point=entry_point,
        prompt=prompt,
        setup=setup,
        stop_at_first=not partial,
        limits=Limits(cpu_seconds=timeout, wall_seconds=2 * timeout, memory_bytes=memory_mb << 20),
    )


def program(text: str, entry_point: str = "", prompt: str = "") -> str:
    """The program in an answer: its code block, after the prompt that it completes or redefines."""
    blocks = [body for _, language, body in _FENCE.findall(text) if language.casefold() in _LANGUAGES]
    found = [block for block in blocks if _defines(block, entry_point)]
    answer = (found or blocks or [text])[-1]
    if not prompt:
        return answer
    if _defines(answer, entry_point):
        return f"{prompt}\n\n{answer}"
    return prompt.rstrip(" \t") + _body(answer)


def as_verdict(outcome: Outcome, partial: bool) -> Verdict:
    share = outcome.share
    if share is None:
        return Verdict(None, outcome.reason)
    return Verdict(share if partial else float(share >= 1), outcome.reason)


def _defines(source: str, entry_point: str) -> bool:
    if not entry_point:
        return False
    return re.search(rf"^(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b", source, re.MULTILINE) is not None


def _body(continuation: str) -> str:
    """A function's body up to the first line that is no part of it; base models go on writing."""
    kept: list[str] = []
    for line in continuation.splitlines():
        if line.strip() and not line[0].isspace():
            if kept:
                break
            line = f"    {line}"  # a chat template has stripped the first line's indentation
        kept.append(line)
    return "\n".join(kept) + "\n"


@cache
def _sandbox(mode: Mode) -> Sandbox:
    return Sandbox(mode)
