"""Many at once, those who leave, those who are too many, and the end of the server."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import socket
import threading
import time
from typing import Any

import httpx
import openai
import pytest
from serve_kit import RepeatingModel, Running, ScriptedModel, apart, running, served, until
from transformers import PreTrainedTokenizerFast

HELLO: Any = [{"role": "user", "content": "the cat"}]
CHAT = "/v1/chat/completions"


def ask(client: openai.OpenAI, number: int) -> str:
    answer = client.chat.completions.create(
        model="noise",
        messages=[{"role": "user", "content": f"say {number}"}],
        max_tokens=24,
        temperature=1,
        seed=number,
    )
    return answer.choices[0].message.content or ""


def test_thirty_two_at_once_say_what_each_says_alone(client: openai.OpenAI) -> None:
    alone = [ask(client, number) for number in range(8)]
    assert len(set(alone)) == 8
    with cf.ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda number: ask(client, number), list(range(8)) * 4))
    assert together == alone * 4


def test_streams_run_together(client: openai.OpenAI, server: Running) -> None:
    most = 0

    def stream(number: int) -> str:
        nonlocal most
        text = ""
        for chunk in client.chat.completions.create(
            model="noise",
            messages=[{"role": "user", "content": f"say {number}"}],
            max_tokens=100,
            seed=number,
            stream=True,
        ):
            most = max(most, server.worker("noise").inside)
            text += chunk.choices[0].delta.content or ""
        return text

    with cf.ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(stream, range(8)))
    assert most > 1 and len(set(texts)) == 8


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_generation(server: Running, actor: ScriptedModel, stream: bool) -> None:
    actor.says("mat", HELLO, end=False)
    actor.step_seconds = 0.02
    body = {"model": "actor", "messages": HELLO, "temperature": 0, "stream": stream, "n": 2}
    worker = server.worker("actor")
    with (
        server.http() as http,
        pytest.raises(httpx.ReadTimeout),
        http.stream("POST", CHAT, json=body, timeout=1) as got,
    ):
        for number, _ in enumerate(got.iter_lines()):
            assert worker.inside == 2
            if number > 10:
                raise httpx.ReadTimeout("enough")
    assert server.idle("actor", 5), "the generation goes on without anybody to hear it"
    steps = actor.steps
    time.sleep(0.2)
    assert actor.steps == steps, "the worker makes steps for nobody"


def test_a_client_that_leaves_the_queue(tokenizer: PreTrainedTokenizerFast) -> None:
    model = ScriptedModel(tokenizer)
    model.says("mat", HELLO, end=False)
    model.step_seconds = 0.02
    body = {"model": "m", "messages": HELLO, "temperature": 0, "max_tokens": 60}
    one = running([served(model, tokenizer, "m")], max_batch=1, max_queue=8)
    with one as server, server.http() as http, cf.ThreadPoolExecutor(1) as pool:
        first = pool.submit(http.post, CHAT, json=body)
        assert until(lambda: server.worker("m").inside == 1)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                http.post(CHAT, json=body, timeout=0.05)
        assert until(lambda: server.worker("m").inside == 1), "those who left are waiting still"
        assert first.result().json()["usage"]["completion_tokens"] == 60


def test_too_many_are_told_to_come_again(tokenizer: PreTrainedTokenizerFast) -> None:
    model = ScriptedModel(tokenizer)
    model.says("mat", HELLO, end=False)
    model.step_seconds = 0.02
    body = {"model": "m", "messages": HELLO, "temperature": 0, "max_tokens": 30}
    with running([served(model, tokenizer, "m")], max_batch=1, max_queue=1) as server, server.http() as http:
        with cf.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: http.post(CHAT, json=body), range(6)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200, 200, 429, 429, 429, 429]
        late = next(answer for answer in answers if answer.status_code == 429)
        assert late.headers["retry-after"] == "1" and late.json()["error"]["code"] == "queue_full"
        assert http.post(CHAT, json={**body, "n": 3}).status_code == 400  # could never be
        assert http.post(CHAT, json=body).status_code == 200
        again = server.client(max_retries=5).chat.completions.create  # the official client comes again by itself
        with cf.ThreadPoolExecutor(3) as pool:
            done = list(pool.map(lambda _: again(model="m", messages=HELLO, max_tokens=10), range(3)))
        assert len(done) == 3


def test_a_request_that_takes_too_long(tokenizer: PreTrainedTokenizerFast) -> None:
    model = ScriptedModel(tokenizer)
    model.says("mat", HELLO, end=False)
    model.step_seconds = 0.05
    body = {"model": "m", "messages": HELLO, "temperature": 0}
    with running([served(model, tokenizer, "m")], request_timeout=0.5) as server, server.http() as http:
        answer = http.post(CHAT, json=body)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        lines = http.post(CHAT, json={**body, "stream": True}).text.split("\n\n")
        assert '"code":"timeout"' in lines[-2].replace(" ", "") and "[DONE]" not in lines[-2]
        assert server.idle("m")


def test_a_slow_reader_loses_nothing(server: Running, actor: ScriptedModel) -> None:
    actor.says("sat on a mat and then it ran away", HELLO, end=False)
    body = b'{"model":"actor","messages":[{"role":"user","content":"the cat"}],"temperature":0,"stream":true}'
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        time.sleep(1)  # the worker does not wait for it
        assert server.idle("actor", 5)
        data = b""
        while part := sock.recv(65536):
            data += part
    assert b"data: [DONE]" in data


def test_a_worker_with_nothing_to_do_sleeps(server: Running, client: openai.OpenAI) -> None:
    client.completions.create(model="noise", prompt="the", max_tokens=2)
    assert server.idle("noise")
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.2  # seconds of all threads, the test's own included


def test_the_end_lets_running_requests_finish(tokenizer: PreTrainedTokenizerFast) -> None:
    from luopan.serve.config import ServeSettings
    from luopan.serve.server import Server, create_app, listen

    model = ScriptedModel(tokenizer)
    model.says("mat", HELLO, end=False)
    model.step_seconds = 0.02
    settings = ServeSettings(port=0, page=False, drain_seconds=20)
    app = create_app([served(model, tokenizer, "m")], settings)
    sock = listen(settings)
    said: list[str] = []
    ready = threading.Event()
    server = Server(app, settings, said.append, ready.set)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    assert ready.wait(20)
    found = Running(app, sock.getsockname()[1])
    body = {"model": "m", "messages": HELLO, "temperature": 0, "max_tokens": 100}
    with found.http() as http, cf.ThreadPoolExecutor(1) as pool:
        running_one = pool.submit(http.post, CHAT, json=body)
        assert until(lambda: found.worker("m").inside == 1)
        server.handle_exit(15, None)
        refused = httpx.post(found.url + CHAT, json=body)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        health = httpx.get(found.url + "/health")
        assert health.status_code == 503 and health.json()["status"] == "draining"
        answer = running_one.result()
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 100
    thread.join(10)
    assert not thread.is_alive() and not found.worker("m").alive and server.ended_by == 15
    assert "1 running requests" in said[0]


def test_the_end_does_not_wait_for_ever(tokenizer: PreTrainedTokenizerFast) -> None:
    from luopan.serve.config import ServeSettings
    from luopan.serve.server import Server, create_app, listen

    model = RepeatingModel(tokenizer)
    model.step_seconds = 0.05
    settings = ServeSettings(port=0, page=False, drain_seconds=0.5)
    app = create_app([served(model, tokenizer, "m")], settings)
    sock = listen(settings)
    ready = threading.Event()
    server = Server(app, settings, lambda text: None, ready.set)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    assert ready.wait(20)
    found = Running(app, sock.getsockname()[1])
    with found.http() as http, cf.ThreadPoolExecutor(1) as pool:
        endless = pool.submit(http.post, "/v1/completions", json={"model": "m", "prompt": "the", "max_tokens": 600})
        assert until(lambda: found.worker("m").inside == 1)
        began = time.monotonic()
        server.handle_exit(15, None)
        assert endless.result().status_code == 503
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - began < 8


def test_async_streams_that_are_cancelled(server: Running) -> None:
    async def some() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:

            async def one(number: int) -> None:
                stream = await client.completions.create(model="noise", prompt="the cat", max_tokens=500, stream=True)
                async for _ in stream:
                    if number % 2:
                        await stream.close()
                        return

            await asyncio.gather(*(one(number) for number in range(12)))

    apart(some())
    assert server.idle("noise")
