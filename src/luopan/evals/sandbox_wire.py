"""What the tests' process and the answer's process say to each other: framed JSON in which only plain values exist.

Neither side can make the other run anything by sending: a value is rebuilt from numbers, strings and containers of
exactly Python's own types, so that an `__eq__` or a `__reduce__` of the answer stays where it was defined. What is not
plain (an object, a generator, a function) travels as a handle, a number that its owner alone can follow.
"""

from __future__ import annotations

import datetime
import json
import os
import struct
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 16 << 20
"""Bytes of a message; a longer one is an error of its sender."""

_DAYS = (datetime.datetime, datetime.date, datetime.timedelta)
_SMALL = 1 << 60


class WireError(Exception):
    """A message that is none, is too long, or a stream that has ended."""


def encode(value: Any, handle: Callable[[Any], dict[str, Any]], depth: int = 0) -> Any:
    """The value as JSON has it; `handle` makes a handle of what is not plain. A tag is a dictionary of one key."""
    if value is None or value is True or value is False or type(value) in (str, float):
        return value
    if depth > 200:
        raise WireError("nested more than 200 deep")

    def several(values: Any) -> list[Any]:
        return [encode(item, handle, depth + 1) for item in values]

    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_SMALL < number < _SMALL else {"i": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return several(list.__iter__(value))
    if isinstance(value, dict):
        return {"d": [[encode(k, handle, depth + 1), encode(v, handle, depth + 1)] for k, v in dict.items(value)]}
    if isinstance(value, tuple):
        return {"t": several(tuple.__iter__(value))}
    if isinstance(value, set):
        return {"s": several(set.__iter__(value))}
    if isinstance(value, frozenset):
        return {"f": several(frozenset.__iter__(value))}
    return _encode_rare(value) or handle(value)


def _encode_rare(value: Any) -> dict[str, Any] | None:
    if isinstance(value, bytes):
        return {"b": bytes.hex(value)}
    if isinstance(value, bytearray):
        return {"y": bytearray.hex(value)}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if type(value) is range:
        return {"R": [hex(value.start), hex(value.stop), hex(value.step)]}
    if type(value) is Decimal:
        return {"D": str(value)}
    if type(value) is Fraction:
        return {"F": [hex(value.numerator), hex(value.denominator)]}
    if type(value) is datetime.timedelta:
        return {"m": [2, value.days, value.seconds, value.microseconds]}
    if type(value) is datetime.date:
        return {"m": [1, value.year, value.month, value.day]}
    if type(value) is datetime.datetime and value.tzinfo is None:
        fields = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
        return {"m": [0, *fields]}
    return None


def decode(data: Any, follow: Callable[[dict[str, Any]], Any]) -> Any:
    """The value again; `follow` makes something of a handle. WireError on what `encode` does not write."""
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [decode(item, follow) for item in data]
    try:
        if "h" in data or "k" in data:
            return follow(data)
        [(tag, body)] = data.items()
        return _decode_tag(tag, body, follow)
    except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        raise WireError(f"not a value: {type(error).__name__}") from None


def _decode_tag(tag: str, body: Any, follow: Callable[[dict[str, Any]], Any]) -> Any:
    simple: dict[str, Callable[[], Any]] = {
        "i": lambda: int(body, 16),
        "b": lambda: bytes.fromhex(body),
        "y": lambda: bytearray.fromhex(body),
        "c": lambda: complex(*body),
        "D": lambda: Decimal(body),
        "F": lambda: Fraction(*(int(number, 16) for number in body)),
        "R": lambda: range(*(int(number, 16) for number in body)),
        "m": lambda: _DAYS[body[0]](*body[1:]),
        "d": lambda: {decode(key, follow): decode(value, follow) for key, value in body},
        "t": lambda: tuple(decode(item, follow) for item in body),
        "s": lambda: {decode(item, follow) for item in body},
        "f": lambda: frozenset(decode(item, follow) for item in body),
    }
    return simple[tag]()


def frame(message: Any) -> bytes:
    """A message as it is written. WireError if it is too long."""
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) > LONGEST:
        raise WireError(f"{len(body)} bytes are more than a message may have ({LONGEST})")
    return struct.pack("<I", len(body)) + body


def send(descriptor: int, message: Any) -> None:
    """Write one message. WireError if it is too long, OSError if nobody reads."""
    data = memoryview(frame(message))
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, read: Callable[[int, int], bytes] = os.read) -> Any:
    """Read one message. WireError at the end of the stream and on what is no message."""
    (length,) = struct.unpack("<I", _exactly(descriptor, 4, read))
    if length > LONGEST:
        raise WireError("a message that is too long")
    try:
        return json.loads(_exactly(descriptor, length, read))
    except (ValueError, RecursionError):
        raise WireError("not a message") from None


def _exactly(descriptor: int, count: int, read: Callable[[int, int], bytes]) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = read(descriptor, min(count - len(parts), 1 << 20))
        if not part:
            raise WireError("the stream has ended")
        parts += part
    return bytes(parts)
