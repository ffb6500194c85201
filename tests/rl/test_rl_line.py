"""The line to an endpoint: what it waits out, what it gives up on, and what it says."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from fake_endpoint import Endpoint, endpoint, free_port, slowly

from luopan.errors import FeedUnavailable, RecipeError
from luopan.rl import line as line_module
from luopan.rl.line import Line, Refused, retry_after
from luopan.train.interrupt import StopNow, stop_on_signal


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "FIRST_PAUSE", 0.02)


def echo(body: dict[str, Any], number: int) -> tuple[int, Any]:
    return 200, {"echo": body}


def test_many_are_answered_in_order_and_side_by_side() -> None:
    with endpoint(slowly(0.05)) as server:
        answers = Line(server.url, concurrency=8).ask_all("completions", [{"n": i} for i in range(24)])
        assert [answer["echo"]["n"] for answer in answers] == list(range(24))
        assert 4 <= server.most_busy <= 8 and set(server.paths) == {"/v1/completions"}
    assert Line("http://127.0.0.1:9").ask_all("completions", []) == []


def test_what_fails_for_a_while_is_tried_again() -> None:
    moods = [(429, {"error": {"message": "slow down"}}), (503, b"busy"), (500, b""), (200, b"no JSON"), (200, b"[1]")]

    def moody(body: dict[str, Any], number: int) -> Any:
        return moods[number] if number < len(moods) else (200, {"number": number})

    with endpoint(moody) as server:
        said: list[str] = []
        assert Line(server.url, say=said.append).ask("x", {}) == {"number": 5}
    assert len(said) == 1 and "429: slow down" in said[0]


def test_retry_after_is_heeded() -> None:
    def limited(body: dict[str, Any], number: int) -> Any:
        return (429, {}, {"Retry-After": "0.4"}) if number == 0 else (200, {})

    with endpoint(limited) as server:
        began = time.monotonic()
        Line(server.url).ask("x", {})
        assert time.monotonic() - began >= 0.4
    with endpoint(lambda body, number: (429, {}, {"Retry-After": "4000"})) as server:
        with pytest.raises(FeedUnavailable, match="asks to wait 4000 s"):
            Line(server.url, patience=60).ask("x", {})
        assert len(server.asked) == 1


def test_retry_after_as_seconds_and_as_a_date() -> None:
    assert retry_after("3") == 3 and retry_after("-1") == 0 and retry_after(None) is None
    assert retry_after("soon") is None and retry_after("nan") is None
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < (retry_after(in_a_minute) or 0) <= 60


def test_a_server_that_is_not_there_is_waited_for_and_then_given_up() -> None:
    port = free_port()
    with pytest.raises(FeedUnavailable, match="cannot be reached") as caught:
        Line(f"http://127.0.0.1:{port}/v1", patience=0.3).ask("x", {})
    assert caught.value.exit_code == 75 and f"127.0.0.1:{port}" in str(caught.value.hint)


def test_a_server_that_comes_late_is_found() -> None:
    port, began = free_port(), threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        began.set()
        answers.append(Line(f"http://127.0.0.1:{port}/v1", patience=20).ask("x", {"a": 1}))

    thread = threading.Thread(target=ask)
    thread.start()
    began.wait(5)
    time.sleep(0.2)
    with endpoint(echo, port):
        thread.join(20)
    assert answers == [{"echo": {"a": 1}}]


def test_a_server_that_goes_away_in_the_middle_is_given_up() -> None:
    with endpoint(slowly(0.02)) as server:
        line = Line(server.url, patience=0.3, concurrency=2)
        line.ask("x", {})
    with pytest.raises(FeedUnavailable):
        line.ask_all("x", [{}] * 5)


def test_a_server_that_hangs_runs_into_the_time_out() -> None:
    def hanging(body: dict[str, Any], number: int) -> Any:
        if number == 0:
            server.hang(20)
        return 200, {"number": number}

    server: Endpoint
    with endpoint(hanging) as server:
        began = time.monotonic()
        assert Line(server.url, timeout=0.3).ask("x", {}) == {"number": 1}
        assert time.monotonic() - began < 10


def test_refusals_belong_to_their_requests_and_come_at_once() -> None:
    def picky(body: dict[str, Any], number: int) -> Any:
        return (400, {"error": {"message": "prompt too long"}}) if body["n"] == 1 else (200, body)

    with endpoint(picky) as server:
        first, second, third = Line(server.url).try_all("x", [{"n": i} for i in range(3)])
        assert first == {"n": 0} and third == {"n": 2} and len(server.asked) == 3
        assert isinstance(second, Refused) and second.status == 400 and "prompt too long" in second.message
        with pytest.raises(Refused, match="prompt too long"):
            Line(server.url).ask_all("x", [{"n": i} for i in range(3)])


def test_a_request_that_always_fails_does_not_hold_the_others_up() -> None:
    def poisoned(body: dict[str, Any], number: int) -> Any:
        time.sleep(0.05)
        return (500, b"oops") if body["n"] == 0 else (200, body)

    with endpoint(poisoned) as server:
        answers = Line(server.url, attempts=3, concurrency=2).try_all("x", [{"n": i} for i in range(8)])
        assert isinstance(answers[0], Refused) and answers[1:] == [{"n": i} for i in range(1, 8)]
        assert sum(body["n"] == 0 for body in server.asked) == 3


@pytest.mark.parametrize(("status", "hint"), [(401, "SOME_KEY"), (403, "SOME_KEY"), (404, "/v1"), (307, "new address")])
def test_what_is_wrong_for_all_is_said_at_once(status: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with endpoint(lambda body, number: (status, {"detail": "not with sk-secret"}, {"Location": "/v2"})) as server:
        with pytest.raises(Refused) as caught:
            Line(server.url, api_key_env="SOME_KEY").try_all("x", [{}])
        assert caught.value.status == status and hint in str(caught.value) and len(server.asked) == 1
        assert "sk-secret" not in str(caught.value) and "not with ***" in str(caught.value)
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"


def test_the_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(RecipeError, match="SOME_KEY holds no key"):
        Line("http://127.0.0.1:9/v1", api_key_env="SOME_KEY").ask("x", {})
    monkeypatch.setenv("SOME_KEY", "schlüssel")
    with pytest.raises(RecipeError, match="cannot be a key"):
        Line("http://127.0.0.1:9/v1", api_key_env="SOME_KEY").ask("x", {})
    for address in ("127.0.0.1:8000/v1", "ftp://host/v1", "http://me:secret@host/v1"):
        with pytest.raises(RecipeError) as caught:
            Line(address)
        assert "secret" not in str(caught.value)


def test_proxies_are_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(echo) as server, endpoint(lambda body, number: (200, {"proxy": True})) as proxy:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert Line(server.url).ask("x", {"a": 1}) == {"echo": {"a": 1}}
        elsewhere = Line("http://somewhere.invalid/v1").ask("x", {})
        assert elsewhere == {"proxy": True}, "elsewhere the proxy is used"


def test_a_signal_ends_the_waiting_of_a_training_at_once() -> None:
    line = Line(f"http://127.0.0.1:{free_port()}/v1", patience=60)
    began = time.monotonic()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(StopNow), stop_on_signal(lambda text: None):
        line.ask_all("x", [{}] * 4)
    assert time.monotonic() - began < 10


def test_a_signal_also_ends_a_long_answer() -> None:
    def hanging(body: dict[str, Any], number: int) -> Any:
        server.hang(30)
        return 200, {}

    server: Endpoint
    with endpoint(hanging) as server:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(StopNow), stop_on_signal(lambda text: None):
            Line(server.url).ask_all("x", [{}] * 3)
        assert time.monotonic() - began < 10


def test_with_other_ranks_the_wish_ends_the_waiting_in_good_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "world_size", lambda: 2)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(FeedUnavailable, match="stopped by SIGTERM"), stop_on_signal(lambda text: None):
        Line(f"http://127.0.0.1:{free_port()}/v1", patience=60).ask("x", {})


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_signal_ends_a_long_answer_where_a_loop_runs_already() -> None:
    import asyncio

    def hanging(body: dict[str, Any], number: int) -> Any:
        server.hang(30)
        return 200, {}

    async def notebook() -> None:
        Line(server.url).ask("x", {})

    server: Endpoint
    with endpoint(hanging) as server:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(StopNow), stop_on_signal(lambda text: None):
            loop = asyncio.new_event_loop()
            before = asyncio._get_running_loop()
            asyncio._set_running_loop(loop)  # what the browser's tests, and notebooks, leave behind
            try:
                coroutine = notebook()
                coroutine.send(None)
            finally:
                asyncio._set_running_loop(before)
                coroutine.close()
                loop.close()
        assert time.monotonic() - began < 10


def test_it_works_where_a_loop_runs_already() -> None:
    import asyncio

    async def notebook() -> Any:
        return Line(server.url).ask("x", {"a": 1})

    with endpoint(echo) as server:
        # In a thread of its own, as the browser's tests leave a loop in this one.
        assert in_a_thread(lambda: asyncio.run(notebook())) == {"echo": {"a": 1}}
        assert Line(server.url).fetch("models") == {"echo": {"get": "/v1/models"}}
