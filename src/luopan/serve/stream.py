"""Server-sent events, sent while somebody listens: the source is closed as soon as the client is gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from luopan.serve.desk import gone
from luopan.serve.errors import ApiError

_LOG = logging.getLogger("luopan.serve")
DONE = b"data: [DONE]\n\n"


def event(payload: Mapping[str, Any]) -> bytes:
    """One event."""
    return (
        b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
    )


class EventStream(Response):
    """Sends what `source` gives. An error in the middle is an event as well; then the stream ends without [DONE]."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, watching):
                if not task.done():
                    task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async for chunk in self._source:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    await asyncio.sleep(0)  # `send` waits for nothing by itself; let others, and the watch, have a turn
            except ApiError as error:
                await send({"type": "http.response.body", "body": event(error.body()), "more_body": True})
            except Exception as error:
                _LOG.exception("a stream failed")
                told = ApiError(500, f"the server failed: {type(error).__name__}")
                await send({"type": "http.response.body", "body": event(told.body()), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            with suppress(Exception):
                await self._source.aclose()
