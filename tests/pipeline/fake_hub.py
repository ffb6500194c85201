"""A local imitation of the Hub's HTTP interface, as far as an upload needs it: it keeps what it gets and checks it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 34


class FakeHub:
    """State of the imitation. `files` by repository, branch and path; `answer` makes every request fail so."""

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}  # name -> private
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.proposals = 0
        self.requests: list[str] = []
        self.validated: list[str] = []
        self.answer: int | None = None
        self.address = ""


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _reply(self, value: Any, status: int = 200, **headers: str) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _any(self) -> None:
            path = self.path.split("?")[0]
            body = self._body()
            hub.requests.append(f"{self.command} {path}")
            signed = path.startswith("/blob/")  # an address of a store, which needs no token
            if hub.answer is not None:
                self._reply({"error": "no"}, hub.answer)
            elif not signed and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._reply({"error": "Invalid credentials"}, 401)
            else:
                self._answer(path, body)

        do_GET = do_POST = do_PUT = do_HEAD = _any

        def _answer(self, path: str, body: bytes) -> None:
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                if found[1] in hub.repositories:
                    self._reply({"id": found[1], "private": hub.repositories[found[1]]})
                else:
                    self._reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.repositories[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
                self._reply({"url": f"{hub.address}/{name}", "id": "1", "name": name})
            elif path == "/api/validate-yaml":
                hub.validated.append(json.loads(body)["content"])
                self._reply({"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
                hub.files.setdefault((found[1], found[2]), {})
                self._reply({})
            elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
                names = [file["path"] for file in json.loads(body)["files"]]
                large = (".safetensors", ".gguf", ".png")
                modes = {name: "lfs" if name.endswith(large) else "regular" for name in names}
                self._reply({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                self._reply(
                    {
                        "transfer": "basic",
                        "objects": [
                            {**one, "actions": {"upload": {"href": f"{hub.address}/blob/{one['oid']}", "header": {}}}}
                            for one in objects
                        ],
                    }
                )
            elif found := re.fullmatch(r"/blob/(\w+)", path):
                assert hashlib.sha256(body).hexdigest() == found[1]
                hub.blobs[found[1]] = body
                self._reply({})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
                self._commit(found[1], found[2], body)
            else:
                self._reply({"error": f"the imitation has no {self.command} {path}"}, 500)

        def _commit(self, name: str, branch: str, body: bytes) -> None:
            made: dict[str, bytes] = {}
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    made[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    made[value["path"]] = hub.blobs[value["oid"]]
            proposal = "create_pr=1" in self.path
            hub.proposals += proposal
            hub.files.setdefault((name, "a proposal" if proposal else branch), {}).update(made)
            address = f"{hub.address}/{name}"
            more = {"pullRequestUrl": f"{address}/discussions/{hub.proposals}"} if proposal else {}
            self._reply({"commitUrl": f"{address}/commit/{'0' * 40}", "commitOid": "0" * 40, **more})

    return Handler


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """The imitation, at `address`."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
