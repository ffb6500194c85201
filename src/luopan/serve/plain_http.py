"""What the page's routes share: bodies of bounded size, and errors in the shape that OpenAI's API gives them.

The routes keep to this by their route class (`PlainRoute`), so they answer the same wherever they are mounted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from luopan.errors import LuopanError


class Refusal(Exception):
    """A request that is not answered: an HTTP status and what to say."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> JSONResponse:
        """The error as OpenAI's API writes it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status)


class PlainJson(JSONResponse):
    """JSON of whatever a file or a template held: half characters are escaped, what is no number is null."""

    def render(self, content: Any) -> bytes:
        return json.dumps(_finite(content), ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


class PlainRoute(APIRoute):
    """A route whose refusals, and errors that a user can mend, are OpenAI-shaped."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{**named, "response_model": None})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await inner(request)
            except Refusal as refusal:
                response = refusal.response()
            except RequestValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"][1:])
                response = Refusal(400, f"{place}: {first['msg']}", param=place, code="invalid_value").response()
            except LuopanError as error:
                response = Refusal(400, str(error), code="invalid_value").response()
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
            return response

        return handle


def plain_router(lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None) -> APIRouter:
    """A router of such routes, which the API's description leaves out. `lifespan`: what goes on as long as its app."""
    return APIRouter(
        route_class=PlainRoute, include_in_schema=False, default_response_class=PlainJson, lifespan=lifespan
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


async def json_body(request: Request, limit_bytes: int) -> dict[str, Any]:
    """The body as a JSON object. Refuses one that is larger (413), no JSON, or no object (400)."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise Refusal(413, f"the request is larger than {limit_bytes:,} bytes", code="request_too_large")
        parts.append(part)
    try:
        value = json.loads(b"".join(parts).decode("utf-8"), parse_constant=_no_constant)
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Refusal(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, not {type(value).__name__}", code="invalid_json")
    return value
