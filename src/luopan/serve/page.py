"""The page: files of ours out of the package, under a content security policy that allows nothing else.

No inline script or style, nothing from elsewhere, and with trusted types no text ever becomes markup (Chromium refuses
`innerHTML` outright). Only files that are in the package are served: a request is looked up in their list, no path is
ever made of it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

import luopan
from luopan.serve.plain_http import Refusal, plain_router

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class PageSettings(Protocol):
    """What the page asks of the server's settings."""

    @property
    def api_key(self) -> str | None:
        """Where there is one, the page asks for it before anything else."""


def page_router(settings: PageSettings) -> APIRouter:
    """GET `/`, `/static/…` and `/page.json`, none of which needs the API key."""
    router = plain_router()

    @router.get("/")
    def index(request: Request) -> Response:
        return _answer(request, "index.html")

    @router.get("/static/{path:path}")
    def static(request: Request, path: str) -> Response:
        return _answer(request, path)

    @router.get("/page.json")
    def about() -> Response:
        return JSONResponse({"version": luopan.__version__, "key_needed": bool(settings.api_key)})

    return router


@lru_cache(maxsize=1)
def static_files() -> dict[str, tuple[bytes, str]]:
    """{path below `static/`: (bytes, entity tag)}, of the kinds that the page has."""
    found: dict[str, tuple[bytes, str]] = {}

    def collect(folder: Traversable, before: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                collect(entry, f"{before}{entry.name}/")
            elif _suffix(entry.name) in KINDS:
                data = entry.read_bytes()
                found[before + entry.name] = data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'

    collect(resources.files("luopan.serve").joinpath("static"), "")
    return found


def _answer(request: Request, path: str) -> Response:
    known = static_files().get(path)
    if known is None:
        raise Refusal(404, "there is no such file", code="not_found")
    data, tag = known
    headers = {**HEADERS, "ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=KINDS[_suffix(path)], headers=headers)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
