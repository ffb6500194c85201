"""The helper process of `bounded`: grades batches that come over a pipe, a verdict sent back after each row.

Before a row the limit of processor time is set to what is used so far and the row's own; the system ends the process
when it is reached, whatever it is doing. The packages that a verifier needs are imported before that, so that no answer
pays for them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from luopan.evals.verdict import Verdict
from luopan.evals.verifiers import TABLE, judge

MEMORY = 4 << 30  # bytes of address space
PARENT_S = 2.0  # between looks at whether the parent still lives


def main() -> None:
    line = Connection(int(sys.argv[1]))
    parent = os.getppid()
    _limit("RLIMIT_AS", MEMORY)
    _limit("RLIMIT_CORE", 0)
    line.send("ready")
    while os.getppid() == parent:
        if not line.poll(PARENT_S):
            continue
        try:
            limit_s, rows = line.recv()
            for name, text, args in rows:
                line.send(_verdict(name, text, args, limit_s))
        except (EOFError, OSError):
            return


def _verdict(name: str, text: str, args: Mapping[str, Any], limit_s: int) -> Verdict:
    try:
        for package in TABLE[name].needs:
            import_module(package)
        import_module(f"luopan.evals.{TABLE[name].module}")
    except Exception as error:  # a package that is there and broken
        return Verdict(None, f"verifier {name!r} cannot be loaded: {type(error).__name__}: {error}")
    with _processor_time(limit_s):
        return judge(name, text, args)


@contextmanager
def _processor_time(limit_s: int) -> Iterator[None]:
    """The process ends if what is inside takes longer; whole seconds, up to one more."""
    _limit("RLIMIT_CPU", int(time.process_time()) + 1 + limit_s)
    yield
    _limit("RLIMIT_CPU", -1)


def _limit(what: str, amount: int) -> None:
    """Sets a soft limit of the system, where it has such."""
    try:
        import resource

        kind = getattr(resource, what)
        resource.setrlimit(kind, (amount, resource.getrlimit(kind)[1]))
    except (ImportError, AttributeError, ValueError, OSError):
        return


if __name__ == "__main__":
    main()
