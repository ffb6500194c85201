"""The tests' process: it starts the answer's process, runs the tests against it and reports to the caller.

The tests see stand-ins for what the answer defines. Calling one sends the arguments over and waits for a value; values
are rebuilt from plain types, so the comparison of an assertion is always Python's own. The verdict goes from here to
the caller over a socket that the answer's process never had.

What a stand-in of an object can do is little on purpose: call, attributes, iteration, length, indexing, text. It
compares equal to itself only and knows no arithmetic, for a result that brings its own `__eq__` or `__sub__` along
would pass any test. So an answer that is a class is tested by what its methods return.
"""

from __future__ import annotations

import builtins
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from luopan.evals.sandbox_checks import Tally, Tests, reason_of
from luopan.evals.sandbox_wire import WireError, decode, encode, receive, send

_BROKEN = "the answer's process sent something that is no value"


class Over(BaseException):
    """The answer's process can answer no more: time is up, it has gone, or it has talked nonsense."""


class AnswerError(Exception):
    """An error that the answer raised and Python has no name for."""


class Line:
    """The channel to the answer's process, and its output, of which the beginning is kept."""

    def __init__(self, channel: int, output: int, keep: int) -> None:
        self.channel, self.output, self.keep = channel, output, keep
        self.said = bytearray()
        self.callbacks: dict[int, Callable[..., Any]] = {}
        self.open_output = True

    def ask(self, do: str, **request: Any) -> Any:
        """Send a request and return the reply's value, running callbacks meanwhile; raise what the answer raised."""
        return self.exchange({"do": do, **request})["value"]

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `ask`; the reply also says which arguments the call has changed."""
        try:
            send(self.channel, request)
            reply = self.hear()
            while "callback" in reply:
                send(self.channel, self.call_back(reply))
                reply = self.hear()
            failure = _error_of(reply) if "error" in reply else None
            done = (
                {} if failure else {"value": decode(reply["value"], self.follow), "changed": reply.get("changed", [])}
            )
        except OSError:
            raise Over("") from None
        except WireError as error:
            raise Over("" if "ended" in str(error) else _BROKEN) from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError, MemoryError):
            raise Over(_BROKEN) from None
        if failure:
            raise failure
        return done

    def hear(self) -> dict[str, Any]:
        reply = receive(self.channel, self.read)
        if not isinstance(reply, dict):
            raise WireError("not a message")
        return reply

    def read(self, channel: int, count: int) -> bytes:
        """Wait for the channel, taking in what is printed meanwhile so that nobody waits for room in a pipe."""
        while True:
            watched = [channel, self.output] if self.open_output else [channel]
            ready = select.select(watched, [], [])[0]
            if self.output in ready:
                self.take_output()
            if channel in ready:
                return os.read(channel, count)

    def take_output(self) -> None:
        part = os.read(self.output, 1 << 16)
        self.open_output = bool(part)
        self.said += part[: self.keep - len(self.said)]

    def drain(self) -> str:
        """What has been printed until now, at most `keep` bytes of it."""
        while self.open_output and select.select([self.output], [], [], 0)[0] and len(self.said) < self.keep:
            self.take_output()
        return self.said.decode("utf-8", "replace")

    def call_back(self, reply: dict[str, Any]) -> dict[str, Any]:
        try:
            arguments = [decode(item, self.follow) for item in reply["args"]]
            return {"value": self.data(self.callbacks[reply["callback"]](*arguments))}
        except Exception as error:
            return {"error": reason_of(error)}

    def data(self, value: Any) -> Any:
        return encode(value, self.hold)

    def hold(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return {"h": value._handle}
        if not callable(value):
            raise TypeError(f"a {type(value).__name__} cannot be handed to the answer")
        self.callbacks[len(self.callbacks)] = value
        return {"k": len(self.callbacks) - 1}

    def follow(self, handle: dict[str, Any]) -> Any:
        kind = RemoteFunction if handle["c"] is True else Remote
        return kind(self, int(handle["h"]), str(handle["n"])[:60])


class Remote:
    """A stand-in for an object of the answer."""

    def __init__(self, line: Line, handle: int | str, name: str) -> None:
        self._line, self._handle, self._name = line, handle, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._line.ask("get", of=self._handle, name=name)

    def __iter__(self) -> Iterator[Any]:
        numbered = self._line.ask("iter", of=self._handle)
        if not isinstance(numbered, Remote):
            raise TypeError(f"{self._name!r} cannot be iterated over")
        while True:
            try:
                yield numbered._line.ask("next", of=numbered._handle)[0]
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._line.ask("next", of=self._handle)[0]

    def __len__(self) -> int:
        return int(self._line.ask("length", of=self._handle))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._line.ask("item", of=self._handle, key=self._line.data(key))

    def __str__(self) -> str:
        return str(self._line.ask("text", of=self._handle, name="str"))

    def __repr__(self) -> str:
        return f"<{self._name} of the answer>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._handle == self._handle

    def __hash__(self) -> int:
        return hash(self._handle)


class RemoteFunction(Remote):
    """A stand-in for a function, a class or a method of the answer."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        args = [self._line.data(item) for item in arguments]
        kwargs = {name: self._line.data(item) for name, item in named.items()}
        reply = self._line.exchange({"do": "call", "of": self._handle, "args": args, "named": kwargs})
        try:
            for position, data in reply["changed"]:
                _update(arguments[position], decode(data, self._line.follow))
        except (WireError, TypeError, ValueError, IndexError):
            raise Over(_BROKEN) from None
        return reply["value"]


def judge(job: dict[str, Any], line: Line, ready: Callable[[], None]) -> dict[str, Any]:
    """Run a job's tests against the answer's process. `ready` is called once only the answer can still be at fault.

    Returns {"results": [reason or ""], "stopped": why it ended early}, or {"error": what is wrong with the tests}.
    """
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    try:
        tests = Tests(job["tests"], job["entry_point"])
        for part in (job["prompt"], job["setup"]):
            exec(compile(part, "<prompt>", "exec"), namespace)
    except Exception as error:
        return {"error": f"the tests cannot be used: {reason_of(error)}"}
    ready()
    tally = Tally(stop_at_first=job["stop_at_first"])
    try:
        line.ask("load", code=job["code"])
        wanted = sorted(name for name in tests.names if name == job["entry_point"] or name not in namespace)
        for name, callable_ in line.ask("kinds", names=wanted).items():
            remote = RemoteFunction(line, name, name)
            namespace[name] = remote if callable_ else line.ask("value", of=name)
        if job["entry_point"] and not isinstance(namespace.get(job["entry_point"]), RemoteFunction):
            return {"results": [f"the answer defines no {job['entry_point']!r}"], "stopped": None}
        tests.run(namespace, tally)
    except Over as over:
        return {"results": tally.results, "stopped": str(over)}
    except Exception as error:
        return {"results": [f"the code does not load: {reason_of(error)}"], "stopped": None}
    return {"results": tally.results, "stopped": None}


def alarm(seconds: float) -> None:
    """Raise Over after so many seconds, wherever the tests then are."""

    def ring(*_: object) -> None:
        raise Over(f"not done after {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def obituary(process: int, limits: dict[str, Any]) -> str:
    """How the answer's process ended, in words. If it has not, it ends with this one, which may not send signals."""
    for _ in range(20):
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        return "the code closed its channel"
    if os.WIFEXITED(status):
        return f"the code ended its process (exit {os.WEXITSTATUS(status)}) before the tests were done"
    if usage.ru_utime + usage.ru_stime >= limits["cpu_seconds"] - 0.1:
        return f"used {limits['cpu_seconds']:g} s of CPU time"
    return f"the code crashed ({signal.Signals(os.WTERMSIG(status)).name})"


def _error_of(reply: dict[str, Any]) -> BaseException:
    """The answer's error as the tests may catch it; one that ends a process ends the tests."""
    name, text = str(reply["error"])[:100], str(reply["text"])
    if reply["exit"]:
        return Over(f"the code left through {name}")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass  # UnicodeDecodeError and the like want more than a text
    return AnswerError(f"{name}: {text}")


def _update(argument: Any, value: Any) -> None:
    if type(argument) is type(value) and isinstance(argument, list | bytearray):
        argument[:] = value
    elif type(argument) is type(value) and isinstance(argument, dict | set):
        argument.clear()
        argument.update(value)
