"""Errors as the OpenAI API writes them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from luopan.errors import DataError, LuopanError, RecipeError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal with its HTTP status. `param` names the field of the request that was wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The same as an HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def refusal(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, message, param=param, code=code)


def too_many(message: str) -> ApiError:
    """A 429 that says when to come again."""
    return ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})


def too_late() -> ApiError:
    """A 504; clients need not try again by themselves."""
    message = "the request took longer than this server allows (--request-timeout)"
    return ApiError(504, message, code="timeout", headers={"x-should-retry": "false"})


def from_luopan(error: LuopanError, param: str | None = None) -> ApiError:
    """An error that the client can mend as a 400, any other as a 500."""
    text = error.message if error.where is None else f"{error.where}: {error.message}"
    if error.hint:  # what a caller of the engine would be told, in this server's words
        hint = error.hint.replace("max_cache_bytes", "--max-cache-gb").replace("max_new_tokens", "max_tokens")
        text = f"{text} ({hint})"
    status = 400 if isinstance(error, DataError | RecipeError) else 500
    return ApiError(status, printable(text), param=param if status == 400 else None)


def printable(text: str) -> str:
    """The text without half characters, which no encoding can send."""
    return text.encode("utf-8", "replace").decode("utf-8")


def from_validation(errors: Sequence[Any]) -> ApiError:
    """The first problem that pydantic found, in words; the others are counted."""
    first = max(errors, key=lambda error: len(error["loc"]))  # of a union's branches the one that came farthest
    if errors[0]["type"] != "extra_forbidden" and len(errors[0]["loc"]) >= len(first["loc"]) - 1:
        first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    names = [part for part in place if part.isidentifier() or part.isdigit()]
    param = printable(".".join(names)) or None
    if first["type"] == "json_invalid":
        return refusal(None, f"the body is no valid JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    if first["type"] == "missing" and param is None:
        return refusal(None, "the request has no body; send JSON with Content-Type: application/json")
    if first["type"] in ("model_attributes_type", "dict_type") and param is None:
        return refusal(None, "the body must be a JSON object, sent with Content-Type: application/json")
    if first["type"] == "extra_forbidden":
        name = printable(place[-1])
        return refusal(
            printable(".".join(place)), f"unknown field: {name}. This server does not implement it.", "unknown_field"
        )
    message = first["msg"].removeprefix("Value error, ")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return refusal(param, printable(f"{param}: {message}" if param else message), code)


def install(app: FastAPI) -> None:
    """Every error of the app in this form, those of the framework included."""

    async def api(_request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def luopan(_request: Request, error: Exception) -> Response:
        assert isinstance(error, LuopanError)
        return from_luopan(error).response()

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = {404: "there is nothing here", 405: "this method is not for this address"}.get(
            error.status_code, str(error.detail)
        )
        if error.status_code == 400:
            message = "the body cannot be read: it must be JSON in UTF-8"
        return ApiError(error.status_code, message, headers=error.headers).response()

    async def unforeseen(_request: Request, error: Exception) -> Response:
        return ApiError(500, f"the server failed: {type(error).__name__}").response()

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(LuopanError, luopan)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)
