"""What a server is told: where it listens, who may ask, how much, how long."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from luopan.errors import RecipeError

MIB, GIB = 2**20, 2**30


class ServeSettings(BaseModel):
    """Frozen; unknown keys are errors.

    host, port: where it listens (port 0: any free one). api_key: what `Authorization: Bearer …` must carry under /v1
    and /api; None: nothing. cors_origins: web pages of which other origins may ask ("*": any). allowed_hosts: names by
    which a server on a loopback address may be called beside localhost and its addresses.
    max_body_bytes: of one request. max_queue: how many requests may wait per model, above those that run. max_batch:
    how many run at once per model. max_cache_gb: GiB of keys and values, all models together; None: half of what is
    free when the server starts. request_timeout: seconds from a request's arrival to its last token. drain_seconds:
    how long running requests may go on once the server is told to end.
    reload_from: the folder below which `/v1/reload` finds other weights; None: there is no such endpoint.
    runs: the folder whose runs the page shows. tally: the file of its votes (default: votes.jsonl in `runs`). page:
    whether there is a page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: str | None = Field(default=None, min_length=1, repr=False)
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=8 * MIB, ge=1024)
    max_queue: int = Field(default=256, ge=0)
    max_batch: int = Field(default=32, ge=1)
    max_cache_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    request_timeout: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    drain_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    reload_from: Path | None = None
    runs: Path = Path("runs")
    tally: Path | None = None
    page: bool = True

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, found, rest = origin.partition("://")
            whole = found and scheme in ("http", "https") and rest and "/" not in rest
            if origin != "*" and not whole:
                raise ValueError(f"{origin!r} is no origin: write it as https://example.org, without a path")
        return origins

    @property
    def votes(self) -> Path:
        """The file of the page's votes."""
        return self.tally or self.runs / "votes.jsonl"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def settings_from(**values: Any) -> ServeSettings:
    """ServeSettings; RecipeError in plain words instead of pydantic's ValidationError."""
    try:
        return ServeSettings(**values)
    except ValidationError as error:
        said = [f"{item['loc'][0]}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()]
        raise RecipeError("; ".join(said)) from None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
