"""A process that renders foreign templates: each request in a child of its own, with limits on time, memory and output.

`python -m luopan.serve.playground_worker` reads messages from standard input (eight bytes of length, then the message)
and answers on standard output. The first message is a pickle of the tokenizers, which the server itself made; those
that follow are JSON. Loading the libraries takes seconds and is done once; a fork takes milliseconds, and what a
template does to the process dies with it. Jinja's sandbox is the first wall, this is the second.

Limits: Unix only, and the bound on memory Linux only. The child may read what the server may read; the sandbox is what
keeps a template from trying.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

MAX_ANSWER_BYTES = 8 << 20
EXTRA_MEMORY_BYTES = 768 << 20
MAX_MESSAGE_BYTES = 1 << 30


def send(stream: BinaryIO, data: bytes) -> None:
    """One message."""
    stream.write(len(data).to_bytes(8, "big") + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """The next message; None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "big")
    if length > MAX_MESSAGE_BYTES:
        return None
    data = stream.read(length)
    return data if len(data) == length else None


def main() -> None:
    """Serve until standard input ends."""
    from luopan.serve import playground_render  # the slow part: all libraries

    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the messages
    first = receive(commands)
    tokenizers = pickle.loads(first) if first else {}
    send(answers, b'{"ready": true}')
    while (message := receive(commands)) is not None:
        request = json.loads(message)
        send(answers, in_child(playground_render, tokenizers, request))


def in_child(renderer: Any, tokenizers: Mapping[str, Any], request: dict[str, Any]) -> bytes:
    """The answer of a forked child as JSON, or an error that says which limit it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(renderer, tokenizers, request, writing)
    os.close(writing)
    try:
        data, met = _collect(reading, time.monotonic() + request["seconds"])
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if met:
        return error_bytes(met, "limit")
    if not data:
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return error_bytes(f"the template ended its process (signal {killed})", "limit")
    return data


def error_bytes(message: str, kind: str) -> bytes:
    """An answer that is an error. `kind`: "mend" for what the user wrote, "limit" for what ran too far."""
    return json.dumps({"error": message, "kind": kind}).encode()


def _collect(reading: int, deadline: float) -> tuple[bytes, str]:
    """All that the child writes, and the limit that it met ("" if none)."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            return b"", "the template takes too long: it was stopped"
        part = os.read(reading, 1 << 16)
        if not part:
            return b"".join(parts), ""
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            return b"", "the template writes too much: it was stopped"
        parts.append(part)


def _child(renderer: Any, tokenizers: Mapping[str, Any], request: dict[str, Any], writing: int) -> None:
    """Answer one request and end the process, come what may."""
    from luopan.errors import LuopanError

    answer = b""
    try:
        _limit(int(request["seconds"]) + 1)
        operation = {"render": renderer.render, "lint": renderer.lint}[request["operation"]]
        answer = json.dumps(operation(tokenizers, request), ensure_ascii=True).encode()
    except LuopanError as error:
        answer = error_bytes(str(error), "mend")
    except MemoryError:
        answer = error_bytes("the template needs too much memory: it was stopped", "limit")
    except RecursionError:
        answer = error_bytes("the template calls itself too deeply", "mend")
    except Exception as error:  # a template can raise anything
        answer = error_bytes(f"the template fails: {type(error).__name__}: {str(error)[:500]}", "mend")
    finally:
        try:
            while answer:
                answer = answer[os.write(writing, answer) :]
        finally:
            os._exit(0)


def _limit(seconds: int, statm: Path = Path("/proc/self/statm")) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        now = int(statm.read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:  # no Linux: what is mapped is not told, and RLIMIT_AS is not kept to; time and output still are
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + EXTRA_MEMORY_BYTES,) * 2)


if __name__ == "__main__":
    main()
