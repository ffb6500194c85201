"""Calls written as Python, `f(x=1, y=["a"])`, read without running anything.

A grammar of its own and no `ast.parse`, because deep nesting in what a model writes must not bring the interpreter
down. Values are literals: text, numbers, True, False, None, lists, tuples (as lists), dictionaries with text as keys.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from luopan.generate.replies_parts import NoCallError

DEPTH = 64
_TOKEN = re.compile(
    r"\s+|#[^\n]*"
    r"|(?P<text>[bB]?\"\"\"(?s:.*?)\"\"\"|'''(?s:.*?)'''|\"(?:[^\"\\\n]|\\(?s:.))*\"|'(?:[^'\\\n]|\\(?s:.))*')"
    r"|(?P<number>-?(?:\d[\d_]*\.?[\d_]*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
    r"|(?P<sign>[()\[\]{},:=;])"
)
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


def python_calls(text: str, signatures: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, Any]]]:
    """The calls of a text, one after the other or in a list. `signatures`: names of parameters, for values without.

    Raises NoCallError where there is anything but calls with literal arguments.
    """
    return _Reader(text, signatures).calls()


def signatures_of(text: str) -> dict[str, list[str]]:
    """The functions that Python code declares (`def f(a, b: int = 1)`), each with its parameters."""
    found = {}
    for name, inside in re.findall(r"\bdef\s+(\w+)\s*\((.*?)\)\s*(?:->|:|$)", text, flags=re.DOTALL | re.MULTILINE):
        depth, parameters, current = 0, [], ""
        for sign in inside + ",":
            depth += (sign in "([{") - (sign in ")]}")
            if sign == "," and depth == 0:
                parameters.append(current)
                current = ""
            else:
                current += sign
        names = [re.match(r"\s*(\w+)", parameter) for parameter in parameters]
        found[str(name)] = [match[1] for match in names if match]
    return found


class _Reader:
    """Reads one text; `_next` is what comes, as (kind, text), ("", "") at the end."""

    def __init__(self, text: str, signatures: Mapping[str, Sequence[str]]) -> None:
        self._tokens = self._split(text)
        self._at = 0
        self._signatures = signatures

    @staticmethod
    def _split(text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.end() == at:
                raise NoCallError(f"{text[at : at + 20]!r} is no part of a call")
            if match.lastgroup:
                tokens.append((match.lastgroup, match[0]))
            at = match.end()
        return [*tokens, ("", "")]

    @property
    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _take(self, sign: str | None = None) -> str:
        kind, text = self._next
        if sign is not None and (kind, text) != ("sign", sign):
            raise NoCallError(f"{text or 'the end'!r} stands where {sign!r} should")
        self._at += 1
        return text

    def _is(self, sign: str) -> bool:
        return self._next == ("sign", sign)

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        listed = self._is("[")
        if listed:
            self._take()
        found = []
        while self._next[0] == "name":
            found.append(self._call())
            if self._is("," if listed else ";"):
                self._take()
        if listed:
            self._take("]")
        if self._next[0] or not found:
            raise NoCallError(f"{self._next[1] or 'nothing'!r} is no call")
        return found

    def _call(self) -> tuple[str, dict[str, Any]]:
        name = self._take()
        self._take("(")
        arguments: dict[str, Any] = {}
        parameters = list(self._signatures.get(name, ()))
        while not self._is(")"):
            if self._next[0] == "name" and self._tokens[self._at + 1] == ("sign", "="):
                key = self._take()
                self._take("=")
            elif len(arguments) < len(parameters):
                key = parameters[len(arguments)]
            else:
                raise NoCallError(f"an argument of {name} has no name")
            if key in arguments:
                raise NoCallError(f"{name} is given {key} twice")
            arguments[key] = self._value(0)
            if not self._is(")"):
                self._take(",")
        self._take(")")
        return name, arguments

    def _value(self, depth: int) -> Any:
        if depth > DEPTH:
            raise NoCallError(f"arguments nested deeper than {DEPTH}")
        kind, text = self._next
        if kind == "text":
            whole = ""
            while self._next[0] == "text":  # neighbours are one text
                whole += _text(self._take())
            return whole
        if kind == "number":
            return _number(self._take())
        if kind == "name" and text in _WORDS:
            return _WORDS[self._take()]
        if kind == "sign" and text in "[(":
            return self._items("]" if text == "[" else ")", depth)
        if kind == "sign" and text == "{":
            return self._dictionary(depth)
        raise NoCallError(f"{text or 'the end'!r} is no value")

    def _items(self, end: str, depth: int) -> list[Any]:
        self._take()
        items = []
        while not self._is(end):
            items.append(self._value(depth + 1))
            if not self._is(end):
                self._take(",")
        self._take(end)
        return items

    def _dictionary(self, depth: int) -> dict[str, Any]:
        self._take()
        found: dict[str, Any] = {}
        while not self._is("}"):
            key = self._value(depth + 1)
            if not isinstance(key, str):
                raise NoCallError(f"the key {key!r:.40} is no text")
            self._take(":")
            found[key] = self._value(depth + 1)
            if not self._is("}"):
                self._take(",")
        self._take("}")
        return found


def _text(literal: str) -> str:
    if literal[0] in "bB":
        raise NoCallError("bytes are no value")
    if literal[0] == '"' and not literal.startswith('"""'):
        try:  # as templates write it, with JSON's way to spell what is beyond the basic plane
            return str(json.loads(literal, strict=False))
        except ValueError:
            pass
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError) as error:
        raise NoCallError(f"{literal:.40} is no text") from error


def _number(literal: str) -> int | float:
    try:
        return int(literal)
    except ValueError:
        pass
    try:
        value = float(literal)
    except ValueError as error:
        raise NoCallError(f"{literal:.40} is no number") from error
    if value in (float("inf"), float("-inf")):
        raise NoCallError(f"{literal:.40} is too large")
    return value
