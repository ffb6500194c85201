"""What every request passes before the application sees it: who asks, from where, how much, and whether we still serve.

Host names are checked on a loopback address, because a web page can have its own name resolve to 127.0.0.1 (DNS
rebinding) and would then count as the same origin. Posts from other origins are refused, because a browser sends simple
ones without asking first. A refused request's body is read and thrown away, up to a bound: a client that is still
sending would see a broken connection instead of the answer.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luopan.serve.config import MIB, ServeSettings, is_loopback
from luopan.serve.errors import ApiError

_DISCARDED_BYTES, _DISCARD_SECONDS, _BODY_SECONDS = 256 * MIB, 10.0, 60.0
_GUARDED = ("/v1/", "/api/")
_OPEN_WHILE_DRAINING = ("/health", "/metrics")


class Gate:
    """ASGI middleware; `state` is shared with the server that ends."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, state: GateState) -> None:
        self.app, self.settings, self.state = app, settings, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = self.state
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = f"req_{secrets.token_hex(12)}".encode()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"x-request-id", request_id), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        state.active += 1
        try:
            error = self._refusal(scope, headers, draining=state.draining)
            body = b""
            if error is None and scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                body, error = await self._read(headers, receive)
            elif error is not None:
                await _discard(receive)
            if error is not None:
                await error.response()(scope, receive, send_marked)
                return
            await self.app(scope, _replayed(body, receive), send_marked)
        finally:
            state.active -= 1

    def _refusal(self, scope: Scope, headers: Mapping[str, str], *, draining: bool) -> ApiError | None:
        host = headers.get("host", "")
        if self.settings.loopback and not self._known_host(host):
            message = f"this server is not called {host!r}: it listens on {self.settings.host} only"
            return ApiError(403, message, code="unknown_host")
        path = scope["path"]
        if draining and path not in _OPEN_WHILE_DRAINING:
            return ApiError(503, "the server is ending and takes no new requests", code="draining")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD", "OPTIONS") and not self._own(origin, host):
            message = f"pages of {origin} may not ask this server; start it with --cors-origin {origin} to let them"
            return ApiError(403, message, code="foreign_origin")
        if self.settings.api_key is not None and path.startswith(_GUARDED):
            return self._check_key(headers.get("authorization", ""))
        return None

    def _known_host(self, host: str) -> bool:
        name = re.sub(r":\d+\Z", "", host)
        return is_loopback(name) or name in (self.settings.host, *self.settings.allowed_hosts)

    def _own(self, origin: str, host: str) -> bool:
        allowed = self.settings.cors_origins
        if "*" in allowed or origin in allowed:
            return True
        try:
            return urlsplit(origin).netloc == host
        except ValueError:  # `http://[` and the like
            return False

    def _check_key(self, given: str) -> ApiError | None:
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer" or not key:
            message = "this server asks for an API key: send Authorization: Bearer KEY"
        elif hmac.compare_digest(key.strip(" \t").encode("latin-1"), (self.settings.api_key or "").encode()):
            return None
        else:
            message = "the API key is wrong"
        return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> tuple[bytes, ApiError | None]:
        """The whole body, or why not. The limit holds for what really comes, whatever was announced."""
        limit = self.settings.max_body_bytes
        too_large = ApiError(413, f"the request is larger than {limit} bytes", code="request_too_large")
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            await _discard(receive)
            return b"", too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b"", ApiError(400, "the client went away before its request was whole")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        parts.clear()
                        if message.get("more_body"):
                            await _discard(receive)
                        return b"", too_large
                    if not message.get("more_body"):
                        return b"".join(parts), None
        except TimeoutError:
            return b"", ApiError(408, f"the request's body took longer than {_BODY_SECONDS:.0f} seconds")


class GateState:
    """`draining`: new requests get 503. `active`: requests that are being answered."""

    def __init__(self) -> None:
        self.draining = False
        self.active = 0


async def _discard(receive: Receive) -> None:
    """Read the rest of a body and forget it, up to a bound."""
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size < _DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application: the body at once, after that what else comes (that the client is gone)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
