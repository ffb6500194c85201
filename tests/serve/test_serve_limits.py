"""What a server bounds: generations, seconds, memory; and what it does where a model cannot run."""

from __future__ import annotations

import concurrent.futures as cf
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from serve_kit import ScriptedModel, running, served, tiny_model, until
from transformers import PreTrainedTokenizerFast

from luopan.generate.engine import Engine
from luopan.serve import completions, desk, embeddings, prepare, worker
from luopan.serve.config import GIB, ServeSettings
from luopan.serve.desk import cache_shares
from luopan.serve.worker import Worker

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO: Any = [{"role": "user", "content": "the cat"}]


# Generations.


def test_too_many_generations_are_refused_before_any_is_made(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(prepare, "_asks", lambda *given, **more: made.append(given))
    with running([served(tiny_model(len(tokenizer)), tokenizer, "m")], max_batch=2, max_queue=3) as server:
        for path, body in (
            (TEXT, {"prompt": ["the"] * 2048, "n": 128}),
            (TEXT, {"prompt": ["the"] * 3, "n": 2}),
            (TEXT, {"prompt": [[5], [6]], "best_of": 3}),
            (TEXT, {"prompt": ["the"] * 2048, "n": 2, "max_tokens": 0, "echo": True}),
            (CHAT, {"messages": HELLO, "n": 6}),
        ):
            with server.http() as http:
                answer = http.post(path, json={"model": "m", **body})
            assert answer.status_code == 400 and "generations in one request" in answer.json()["error"]["message"]
    assert not made


def test_as_many_as_there_is_room_for_are_taken(tokenizer: PreTrainedTokenizerFast) -> None:
    with running([served(tiny_model(len(tokenizer)), tokenizer, "m")], max_batch=2, max_queue=3) as server:
        body = {"model": "m", "max_tokens": 1}
        with server.http() as http:
            assert len(http.post(TEXT, json={**body, "prompt": [5, 6], "n": 5}).json()["choices"]) == 5
            assert len(http.post(CHAT, json={**body, "messages": HELLO, "n": 5}).json()["choices"]) == 5
            scored = http.post(TEXT, json={"model": "m", "prompt": ["the"] * 9, "max_tokens": 0, "echo": True})
            assert len(scored.json()["choices"]) == 9  # these are none


# Seconds.


def late(answer: httpx.Response, seconds: float) -> bool:
    return answer.status_code == 504 and answer.json()["error"]["code"] == "timeout" and seconds < 1.5


@pytest.mark.parametrize(
    ("room", "name", "path", "body"),
    [
        (completions, "completion", TEXT, {"prompt": "the"}),
        (completions, "prompt_logprobs", TEXT, {"prompt": "the cat", "echo": True, "logprobs": 1, "max_tokens": 0}),
        (embeddings, "texts", VECTORS, {"input": "the"}),
        (embeddings, "mean_state", VECTORS, {"input": "the"}),
    ],
)
def test_everything_that_takes_long_is_a_504(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, room: Any, name: str, path: str, body: Any
) -> None:
    whole: Callable[..., Any] = getattr(room, name)

    def slow(*given: Any) -> Any:
        time.sleep(2.0)
        return whole(*given)

    monkeypatch.setattr(room, name, slow)
    with running([served(tiny_model(len(tokenizer)), tokenizer, "m")], request_timeout=0.3) as server:
        with server.http() as http:
            began = time.monotonic()
            answer = http.post(path, json={"model": "m", **body})
            assert late(answer, time.monotonic() - began), answer.text
        assert until(lambda: server.app.state.desk._preparing == 0)


def test_a_thread_whose_client_is_gone_counts_until_it_is_done(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "texts", lambda *_: time.sleep(1.0) or [[5]])
    model = served(tiny_model(len(tokenizer)), tokenizer, "m")
    with running([model], request_timeout=0.1) as server, server.http() as http:
        assert http.post(VECTORS, json={"model": "m", "input": "the"}).status_code == 504
        assert server.app.state.desk._preparing == 1
        assert until(lambda: server.app.state.desk._preparing == 0, 3)


# Memory.


def engines(*contexts: int) -> list[Engine]:
    return [Engine(tiny_model(64, max_position_embeddings=n), eos_ids=[], max_batch=4) for n in contexts]


def test_models_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, larger = engines(16, 4096, 8192)
    each = small.bytes_per_token
    assert each == 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, numbers in a head, bytes
    monkeypatch.setattr(desk, "free_memory", lambda device: 20_064 * each)
    shares = cache_shares([larger, small, large], ServeSettings(max_batch=4))
    assert shares == [4984 * each, 64 * each, 4984 * each]  # half of what is free is 10,032; the small one needs 64
    assert cache_shares([large], ServeSettings(max_batch=4)) == [10_032 * each]
    assert cache_shares([large, large], ServeSettings(max_batch=1)) == [4096 * each] * 2
    told = ServeSettings(max_batch=4, max_cache_gb=3000 * each / GIB)
    assert cache_shares([large, larger], told) == [1500 * each] * 2
    large.max_cache_bytes = 100 * each
    assert cache_shares([large, larger], told) == [100 * each, 2900 * each]


def test_what_does_not_fit_is_told_by_the_flags_name(tokenizer: PreTrainedTokenizerFast) -> None:
    noise = tiny_model(len(tokenizer))
    models = [served(noise, tokenizer, "a"), served(noise, tokenizer, "b")]
    each = models[0].generator.engine.bytes_per_token
    with running(models, max_cache_gb=200 * each / GIB) as server, server.http() as http:
        for name in ("a", "b"):
            assert server.worker(name)._session is None and server.worker(name).engine.room() == 100
            body = {"model": name, "prompt": [5] * 20}
            assert http.post(TEXT, json={**body, "max_tokens": 80}).status_code == 200
            answer = http.post(TEXT, json={**body, "max_tokens": 81})
            assert answer.status_code == 400
            assert "--max-cache-gb" in answer.json()["error"]["message"]
    assert models[0].generator.engine.max_cache_bytes is None  # the caller's own engine is left alone


# A model that cannot run.


def test_a_model_without_a_session_says_so_and_comes_back(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "_PAUSE_SECONDS", (0.2, 0.8))
    model = served(tiny_model(len(tokenizer)), tokenizer, "m")
    body = {"model": "m", "prompt": "the", "max_tokens": 2}
    with running([model], max_batch=1) as server, server.http() as http:
        engine, tries = server.worker("m").engine, []
        whole = engine.session

        def broken(slots: int) -> Any:
            tries.append(time.monotonic())
            raise MemoryError("the secret of the insides")

        engine.session = broken
        with cf.ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            answers = list(pool.map(lambda _: http.post(TEXT, json=body, timeout=5), range(4)))
        assert time.monotonic() - began < 3 and [one.status_code for one in answers] == [500] * 4
        assert all("MemoryError" in one.text and "secret" not in one.text for one in answers)
        health = http.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "failed"
        assert health.json()["reason"] == "m cannot run at present: MemoryError"
        assert http.post(VECTORS, json={"model": "m", "input": "the"}).status_code == 200  # needs no session
        time.sleep(2)
        assert 3 <= len(tries) <= 7, "it spins" if len(tries) > 7 else "it gave up"
        assert tries[-1] - tries[-2] > 0.7, "the pause does not grow"
        assert "the secret of the insides" in caplog.text
        engine.session = whole
        assert until(lambda: http.get("/health").status_code == 200, 3), "it does not come back by itself"
        assert "reason" not in http.get("/health").json()
        assert http.post(TEXT, json=body).status_code == 200 and server.idle("m")


def test_a_worker_in_trouble_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    with running([served(tiny_model(len(tokenizer)), tokenizer, "m")]) as server, server.http() as http:
        server.worker("m").engine.session = lambda slots: 1 / 0
        assert http.post(TEXT, json={"model": "m", "prompt": "the"}, timeout=5).status_code == 500
        began = time.monotonic()
    assert time.monotonic() - began < 5 and not server.worker("m").alive


def test_figures_that_fail_cost_answers_and_not_the_worker(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ScriptedModel(tokenizer)
    model.says("sat on a mat", HELLO)
    body = {"model": "m", "messages": HELLO, "temperature": 0}
    with running([served(model, tokenizer, "m")]) as server, server.http() as http:
        monkeypatch.setattr(Worker, "_held_tokens", lambda self: 1 / 0)
        answer = http.post(CHAT, json=body, timeout=5)
        assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"]["message"]
        monkeypatch.undo()
        assert http.get("/health").status_code == 200
        assert http.post(CHAT, json=body, timeout=5).json()["choices"][0]["message"]["content"] == "sat on a mat"
        assert server.idle("m")
