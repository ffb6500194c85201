"""The line to a server that speaks the OpenAI API: judges, teachers, samplers behind an endpoint.

    line = Line("http://127.0.0.1:8000/v1", api_key_env="JUDGE_KEY")
    answers = line.ask_all("chat/completions", [{"model": "judge", "messages": […]}, …])

What a busy or absent server does is waited out: refused connections, time-outs, 429 and 5xx are tried again, with
pauses that grow (halved or doubled at random, so that clients do not come in step) or that the server names in
Retry-After. `patience` is how long no request at all may succeed; then it is `FeedUnavailable`, which the training
loop turns into a checkpoint and an orderly end. While a training waits here, Ctrl-C and SIGTERM end the waiting at
once, and the loop saves. What the server refuses for good (400: a prompt that is too long) is a `Refused`, one for
each request; a wrong key, path or model is an error for all of them.

The key is read from the environment variable that `api_key_env` names, so it stands in no recipe, log or message.
Proxies of the environment are used, but never to reach this machine itself. Limits: connections live as long as one
call; an answer is read whole.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from luopan.errors import FeedUnavailable, LuopanError, RecipeError
from luopan.train.interrupt import current_wish
from luopan.train.ranks import world_size

T = TypeVar("T")
Body = Mapping[str, Any]

CONNECT_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 10.0, 0.5, 30.0
_HERE = ("localhost", "127.0.0.1", "[::1]")
_FOR_ALL = (401, 403, 404, 405)  # wrong for every request alike
_AGAIN = (408, 425, 429)  # and all from 500
_SAID_CHARACTERS = 300


class Refused(LuopanError):
    """The server answered that it will not do this. `status`: of HTTP, None where there was none."""

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


Heard = Callable[[int, dict[str, Any] | Refused], None]


@dataclass(frozen=True)
class Line:
    """Where a server is and how it is asked.

    base_url: with the version, as OpenAI's clients have it (http://host:8000/v1). timeout: seconds for one answer.
    patience: seconds in which nothing succeeds before it is given up. concurrency: requests under way at once.
    attempts: how often one request is tried that fails (500, time-out) while others succeed; then it is `Refused`.
    say: hears, once per call, that the server is waited for.
    """

    base_url: str
    api_key_env: str | None = None
    timeout: float = 300.0
    patience: float = 600.0
    concurrency: int = 16
    attempts: int = 6
    say: Callable[[str], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RecipeError(f"{self.base_url!r} is no address of a server", hint="Such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise RecipeError(
                "a password in base_url would be written into logs", hint="Use api_key_env instead."
            ) from None
        assert self.concurrency > 0 and self.attempts > 0 and self.timeout > 0 and self.patience >= 0

    def ask(self, path: str, body: Body) -> dict[str, Any]:
        """The answer to one POST. Refused, FeedUnavailable."""
        return self.ask_all(path, [body])[0]

    def ask_all(self, path: str, bodies: Sequence[Body]) -> list[dict[str, Any]]:
        """The answers to many, in their order, asked side by side. Refused for the first that is."""
        answers: list[dict[str, Any]] = []
        for answer in self.try_all(path, bodies):
            if isinstance(answer, Refused):
                raise answer
            answers.append(answer)
        return answers

    def try_all(self, path: str, bodies: Sequence[Body], heard: Heard | None = None) -> list[dict[str, Any] | Refused]:
        """As `ask_all`, but a request that is refused gives its `Refused` in its place. `heard` is told of each (place,
        answer) as it comes, so that what was answered is not lost with what was not."""
        return self._talk("POST", path, bodies, heard) if bodies else []

    def fetch(self, path: str) -> dict[str, Any]:
        """The answer to a GET. Refused, FeedUnavailable."""
        answer = self._talk("GET", path, [None])[0]
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _talk(
        self, method: str, path: str, bodies: Sequence[Body | None], heard: Heard | None = None
    ) -> list[dict[str, Any] | Refused]:
        call = _Call(self, method, path, self._headers())
        wish = current_wish()
        # Of several ranks the others wait for this one: there the wish is looked at between two attempts.
        with wish.prompt() if wish is not None and world_size() == 1 else nullcontext():
            return _run(call.all(bodies, heard))

    def _headers(self) -> dict[str, str]:
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise RecipeError(
                f"the environment variable {self.api_key_env} holds no key for {self.base_url}",
                hint=f"Set it (export {self.api_key_env}=…), or leave api_key_env out where no key is asked for.",
            )
        if not key.isascii() or not key.isprintable():
            raise RecipeError(f"what {self.api_key_env} holds cannot be a key: it has characters that no header takes")
        return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class _Trouble:
    """Why an attempt may be worth another one. `after`: seconds, as the server said. `own`: it may be this request."""

    text: str
    after: float | None = None
    own: bool = False


class _Call:
    """The requests of one call: they share connections, and what is known of the server."""

    def __init__(self, line: Line, method: str, path: str, headers: Mapping[str, str]) -> None:
        self.line, self.method, self.headers = line, method, dict(headers)
        self.url = f"{line.base_url.rstrip('/')}/{path.lstrip('/')}"
        self.heard = time.monotonic()  # when the server last did what it was asked, or the call began
        self.told = False
        self.draw = random.Random()

    async def all(self, bodies: Sequence[Body | None], heard: Heard | None) -> list[dict[str, Any] | Refused]:
        """Ask side by side; the first error that is not one request's own ends all."""
        seats = asyncio.Semaphore(self.line.concurrency)
        limits = httpx2.Limits(max_connections=self.line.concurrency)
        timeout = httpx2.Timeout(self.line.timeout, connect=min(CONNECT_SECONDS, self.line.timeout), pool=None)
        direct = {f"all://{host}": None for host in _HERE}  # no proxy
        async with httpx2.AsyncClient(headers=self.headers, limits=limits, timeout=timeout, mounts=direct) as client:

            async def one(place: int, body: Body | None) -> dict[str, Any] | Refused:
                async with seats:  # kept while it pauses, so a server in trouble is asked by few
                    answer = await self.until_answered(client, body)
                if heard is not None:
                    heard(place, answer)
                return answer

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(place, body)) for place, body in enumerate(bodies)]
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
            return [task.result() for task in tasks]

    async def until_answered(self, client: httpx2.AsyncClient, body: Body | None) -> dict[str, Any] | Refused:
        """Try until there is an answer, a refusal, or no patience left."""
        began, failed = time.monotonic(), 0
        while True:
            outcome = await self.attempt(client, body)
            if not isinstance(outcome, _Trouble):
                self.heard = time.monotonic()
                return outcome
            failed += 1
            if outcome.own and failed >= self.line.attempts and self.heard > began:
                return Refused(f"{outcome.text}, {failed} times, while other requests succeeded")
            await self.pause(outcome, failed)

    async def pause(self, trouble: _Trouble, failed: int) -> None:
        """Wait before the next attempt; FeedUnavailable where that would be in vain."""
        left = self.heard + self.line.patience - time.monotonic()
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failed - 1)) * self.draw.uniform(0.5, 1.5)
        if trouble.after is not None:
            if trouble.after > left:
                raise self.unavailable(f"{trouble.text}, and asks to wait {trouble.after:.0f} s")
            pause = trouble.after + self.draw.uniform(0, min(1.0, pause))
        if left <= 0:
            raise self.unavailable(trouble.text)
        if not self.told and self.line.say is not None:
            self.told = True
            self.line.say(f"{trouble.text}; trying again for up to {self.line.patience:g} s")
        until = time.monotonic() + min(pause, left)
        while (rest := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, 1.0))
            wish = current_wish()
            if wish is not None and wish.wished:
                raise self.unavailable(f"stopped by {wish.name} while the server was waited for: {trouble.text}")

    def unavailable(self, why: str) -> FeedUnavailable:
        """The error for a server that is waited for no longer."""
        return FeedUnavailable(
            f"{why} (given up after {time.monotonic() - self.heard:.0f} s without an answer)",
            hint=f"See that the server at {self.line.base_url} runs and can be reached from here.",
        )

    async def attempt(self, client: httpx2.AsyncClient, body: Body | None) -> dict[str, Any] | Refused | _Trouble:
        """One request. LuopanError for what would fail for all of them."""
        try:
            # The time-outs of the client are for each read: a server that drips would never run into them.
            async with asyncio.timeout(self.line.timeout):
                response = await client.request(self.method, self.url, json=body)
        except TimeoutError:
            return _Trouble(f"{self.url} did not answer in {self.line.timeout:g} s", own=True)
        except httpx2.TimeoutException:
            return _Trouble(f"{self.url} could not be reached in time", own=True)
        except httpx2.TransportError as error:
            return _Trouble(f"{self.url} cannot be reached: {str(error) or type(error).__name__}")
        except (httpx2.InvalidURL, ValueError) as error:  # ValueError: a number that JSON does not know
            raise RecipeError(f"the request to {self.url} cannot be made: {error}") from None
        return self.read(response)

    def read(self, response: httpx2.Response) -> dict[str, Any] | Refused | _Trouble:
        """What the server's answer means."""
        status = response.status_code
        if status == 200:
            try:
                found = response.json()
            except ValueError:
                found = None
            return found if isinstance(found, dict) else _Trouble(f"{self.url} answered with no JSON object", own=True)
        said = f"{self.url} answered {status}{self.reason(response)}"
        if status in _AGAIN or status >= 500:
            return _Trouble(said, retry_after(response.headers.get("retry-after")), own=status not in _AGAIN)
        if status in _FOR_ALL:
            raise Refused(said, status=status, hint=_hint(status, self.line))
        if 300 <= status < 400:
            place = response.headers.get("location", "elsewhere")
            raise Refused(f"{said}: moved to {place}", status=status, hint="Put the new address into base_url.")
        return Refused(said, status=status)

    def reason(self, response: httpx2.Response) -> str:
        """The server's words, if it has some; never our key, which some servers repeat."""
        try:
            said = response.json()
        except ValueError:
            said = response.text
        for key in ("error", "detail", "message"):
            said = said.get(key, said) if isinstance(said, dict) else said
        text = " ".join(str(said).split())
        for value in self.headers.values():
            text = text.replace(value.removeprefix("Bearer "), "***")
        return f": {text[:_SAID_CHARACTERS]}" if text else ""


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None without a usable one."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _hint(status: int, line: Line) -> str:
    if status in (401, 403):
        named = (
            f"Is the key in {line.api_key_env} right?" if line.api_key_env else "api_key_env names where the key is."
        )
        return f"The server asks for a key. {named}"
    return "Look at base_url (it usually ends in /v1) and at the model's name."


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, also where a loop runs in this thread already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _run_beside(work)


def _run_beside(work: Coroutine[Any, Any, T]) -> T:
    """In a thread with a loop of its own. What ends the waiting here (a signal) ends the work there."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def known() -> T:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await work

    with ThreadPoolExecutor(1, "luopan-line") as pool:
        found = pool.submit(copy_context().run, asyncio.run, known())
        try:
            return found.result()
        except BaseException:
            if not found.done():
                loop, task = begun.result(timeout=5)
                loop.call_soon_threadsafe(task.cancel)
            raise
