"""The packages of the extra `serve`, looked for before any of them is imported."""

from __future__ import annotations

from importlib.util import find_spec

from luopan.errors import LuopanError


def require_packages() -> None:
    """LuopanError where a package that the server is made of is not installed."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise LuopanError(
            f"the server needs {', '.join(missing)}, not installed here", hint="pip install luopan[serve]"
        )
