"""Whether a verifier can be called with a row's arguments: names, required ones and types, from its own signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError


def mismatch(function: Callable[..., Any], args: Mapping[str, Any]) -> str:
    """What is wrong with the arguments beside the text, or ""."""
    adapters, required = _signature(function)
    if unknown := [name for name in args if name not in adapters]:
        return f"there is no {unknown[0]!r} (it takes {', '.join(adapters) or 'none'})"
    if missing := [name for name in required if name not in args]:
        return f"{missing[0]!r} is missing"
    for name, value in args.items():
        try:
            adapters[name].validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            inner = "".join(f"[{part!r}]" for part in first["loc"] if isinstance(part, int))
            return f"{name}{inner}: {first['msg']}, not {str(value)[:60]!r}"
    return ""


@cache
def _signature(function: Callable[..., Any]) -> tuple[dict[str, TypeAdapter[Any]], tuple[str, ...]]:
    """(checkers by argument, the required ones); the first parameter is the text."""
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    adapters = {one.name: TypeAdapter(hints[one.name]) for one in parameters}
    return adapters, tuple(one.name for one in parameters if one.default is inspect.Parameter.empty)
