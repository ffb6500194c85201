"""An HTTP server of this process that answers as a test says: JSON, an error, silence, rubbish."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]  # status, body (bytes as they are, else JSON), headers
Behave = Callable[[dict[str, Any], int], Reply]  # of a request's body and of how many came before it


@dataclass
class Endpoint:
    """What it was asked, and how it answers; `behave` may be changed while it runs."""

    behave: Behave
    port: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def hang(self, seconds: float) -> None:
        """Answer late, but not hold the test's end up."""
        self.over.wait(seconds)


@contextmanager
def endpoint(behave: Behave, port: int = 0) -> Iterator[Endpoint]:
    """A server on a port of its own (or on `port`) until the block ends."""
    state = Endpoint(behave)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                number = len(state.asked)
                state.asked.append(body)
                state.headers.append(dict(self.headers))
                state.paths.append(self.path)
                state.busy += 1
                state.most_busy = max(state.most_busy, state.busy)
            try:
                self.reply(*state.behave(body, number))
            finally:
                with state.lock:
                    state.busy -= 1

        def do_GET(self) -> None:
            self.reply(*state.behave({"get": self.path}, len(state.asked)))

        def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                return  # the client did not wait

        def log_message(self, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def free_port() -> int:
    """A port on which nothing listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


def slowly(seconds: float) -> Behave:
    """Echo after a while."""

    def behave(body: dict[str, Any], number: int) -> Reply:
        time.sleep(seconds)
        return 200, {"echo": body}

    return behave
