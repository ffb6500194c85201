"""The answer's process: it runs the code under test and calls its functions when the tests' process asks.

It knows neither the tests nor what is expected of it, and all it can say is a value or an error, so nothing that the
code does here (exit, print, patch builtins, walk the frames) can say "passed". Whoever takes this process over has
gained the right to return values, which the code has anyway.
"""

from __future__ import annotations

import itertools
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from luopan.evals.sandbox_wire import WireError, decode, encode, receive, send

_MUTABLE = (list, dict, set, bytearray)
_TEXT = 2_000


def serve(channel: int) -> None:
    """Answer requests on the channel until it ends."""
    random.seed(0)
    sys.setrecursionlimit(1_000)
    server = _Server(channel)
    while True:
        try:
            request = receive(channel)
        except (WireError, OSError):
            return
        server.reply(request)


class _Server:
    """The objects that the tests hold handles of, by number, and the module that the code became."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.module = types.ModuleType("answer")
        self.held: dict[int, Any] = {}
        self.numbers = itertools.count(1)
        self.actions: dict[str, Callable[[dict[str, Any]], Any]] = {
            "load": self.load,
            "kinds": self.kinds,
            "call": self.call,
            "value": self.target,
            "get": lambda request: getattr(self.target(request), request["name"]),
            "next": lambda request: [next(self.target(request))],
            "iter": lambda request: iter(self.target(request)),
            "item": lambda request: self.target(request)[self.value(request["key"])],
            "length": lambda request: len(self.target(request)),
            "text": lambda request: (repr if request["name"] == "repr" else str)(self.target(request)),
        }

    def reply(self, request: dict[str, Any]) -> None:
        try:
            value = self.actions[request["do"]](request)
            message = {"value": self.data(value)}
            if request["do"] == "call":
                message["changed"] = self.changed(request)
            sys.stdout.flush()
            send(self.channel, message)
        except BaseException as error:
            send(self.channel, {"error": type(error).__name__, "text": _text_of(error), "exit": _leaves(error)})

    def load(self, request: dict[str, Any]) -> None:
        code = compile(request["code"], "<answer>", "exec")
        sys.modules["answer"] = self.module
        exec(code, self.module.__dict__)

    def kinds(self, request: dict[str, Any]) -> dict[str, bool]:
        """Of these names, those that the code defines, and whether they can be called."""
        found = {name: self.module.__dict__[name] for name in request["names"] if name in self.module.__dict__}
        return {name: callable(value) for name, value in found.items()}

    def call(self, request: dict[str, Any]) -> Any:
        request["arguments"] = [self.value(item) for item in request["args"]]
        named = {name: self.value(item) for name, item in request["named"].items()}
        return self.target(request)(*request["arguments"], **named)

    def changed(self, request: dict[str, Any]) -> list[list[Any]]:
        """Arguments that the call has changed in place: [[position, new content]]."""
        mutable = [(i, value) for i, value in enumerate(request["arguments"]) if type(value) in _MUTABLE]
        now = [[position, self.data(value)] for position, value in mutable]
        return [[position, data] for position, data in now if data != request["args"][position]]

    def target(self, request: dict[str, Any]) -> Any:
        handle = request["of"]
        return self.module.__dict__[handle] if isinstance(handle, str) else self.held[handle]

    def data(self, value: Any) -> Any:
        return encode(value, self.hold)

    def value(self, data: Any) -> Any:
        return decode(data, self.follow)

    def hold(self, value: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.held[number] = value
        return {"h": number, "n": type(value).__name__, "c": callable(value)}

    def follow(self, handle: dict[str, Any]) -> Any:
        """An object of ours that comes back, or a function of the tests that we may call."""
        if "h" in handle:
            return self.held[handle["h"]]
        number = handle["k"]

        def callback(*arguments: Any) -> Any:
            send(self.channel, {"callback": number, "args": [self.data(item) for item in arguments]})
            reply = receive(self.channel)
            if "error" in reply:
                raise RuntimeError(reply["error"])
            return self.value(reply["value"])

        return callback


def _leaves(error: BaseException) -> bool:
    return not isinstance(error, Exception)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT]
    except BaseException:
        return ""
