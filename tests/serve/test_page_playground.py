"""The template playground: what it shows, and that a foreign template cannot hurt the server."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from transformers import PreTrainedTokenizerFast

from luopan.serve import playground
from luopan.serve.plain_http import Refusal
from luopan.serve.playground import RenderWorker, playground_router
from luopan.serve.playground_render import token_texts
from luopan.tokens.chat import encode_chat, encode_prompt
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.example import IGNORE
from luopan.tokens.lint import lint_template
from luopan.tokens.templates import TEMPLATES, template_source
from luopan.tokens.tokenizer import train_tokenizer

TALK = [{"role": "user", "content": "Hi, 你好 👋"}, {"role": "assistant", "content": "Hello <|im_end|> there"}]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(list(pydoc_data.topics.topics.values())[:20], TokenizerConfig(vocab_size=384))


@pytest.fixture(scope="module")
def client(tokenizer: PreTrainedTokenizerFast) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(playground_router({"runs/mine/sft": tokenizer}))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def render(client: TestClient, code: int = 200, **ask: Any) -> Json:
    answer = client.post("/api/templates/render", json={"messages": TALK, **ask})
    assert answer.status_code == code, answer.text
    return answer.json()


def refused(client: TestClient, source: str, **ask: Any) -> Json:
    return render(client, 400, source=source, **ask)["error"]


def alive(client: TestClient) -> bool:
    return len(render(client, tokenizer="runs/mine/sft")["tokens"]) > 5


def test_the_list_has_every_shipped_template_and_the_models(client: TestClient) -> None:
    data = client.get("/api/templates").json()
    assert [one["name"] for one in data["templates"]] == list(TEMPLATES)
    assert data["models"] == [{"name": "runs/mine/sft", "has_template": True, "template": "luopan", "vocabulary": 384}]
    source = client.get("/api/templates/source", params={"shipped": "qwen3"}).json()["source"]
    assert source == template_source("qwen3")
    assert client.get("/api/templates/source", params={"model": "runs/mine/sft"}).json()["source"].strip()
    for wrong in ({"shipped": "../../etc/passwd"}, {"model": "x"}, {}):
        assert client.get("/api/templates/source", params=wrong).status_code == 404


def test_tokens_and_mask_are_those_of_training(client: TestClient, tokenizer: PreTrainedTokenizerFast) -> None:
    shown = render(client, tokenizer="runs/mine/sft")
    example = encode_chat(tokenizer, TALK)
    assert [token["id"] for token in shown["tokens"]] == list(example.input_ids)
    assert [token["trained"] for token in shown["tokens"]] == [label != IGNORE for label in example.labels]
    assert "".join(token["text"] for token in shown["tokens"]) == tokenizer.decode(example.input_ids)
    assert shown["masked"] is True and shown["refused"] == ""


def test_a_prompt_is_that_of_the_server(client: TestClient, tokenizer: PreTrainedTokenizerFast) -> None:
    shown = render(
        client,
        tokenizer="runs/mine/sft",
        messages=TALK[:1],
        prompt=True,
        chat_template_kwargs={"enable_thinking": True},
    )
    assert [token["id"] for token in shown["tokens"]] == encode_prompt(tokenizer, TALK[:1], enable_thinking=True)
    assert shown["masked"] is False


def test_what_is_learnt_can_be_chosen(client: TestClient) -> None:
    talk = [*TALK, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    counts = {
        what: sum(
            token["trained"]
            for token in render(client, source=template_source("luopan"), messages=talk, train_on=what)["tokens"]
        )
        for what in ("last_turn", "assistant", "all")
    }
    assert 0 < counts["last_turn"] < counts["assistant"] < counts["all"]


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_every_shipped_template_renders_and_is_looked_at(client: TestClient, name: str) -> None:
    shown = render(client, source=template_source(name))
    assert shown["notes"] == ["stand_in"] and any(token.get("trained") for token in shown["tokens"])
    assert client.post("/api/templates/lint", json={"source": template_source(name)}).json()["counts"]["error"] == 0


def test_the_lint_is_that_of_the_command(client: TestClient, tokenizer: PreTrainedTokenizerFast) -> None:
    source = "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.content }}{% endif %}{% endfor %}"
    shown = client.post("/api/templates/lint", json={"source": source, "tokenizer": "runs/mine/sft"}).json()
    expected = lint_template(tokenizer, source=source).as_json()
    assert shown["counts"] == expected["counts"] and shown["counts"]["error"] > 0
    assert [f["rule"] for f in shown["findings"]] == [f["rule"] for f in expected["findings"]]


def test_what_cannot_be_trained_on_is_shown_all_the_same_and_says_why(client: TestClient) -> None:
    shown = render(client, tokenizer="runs/mine/sft", messages=TALK[:1])
    assert shown["masked"] is False and "nothing to learn" in shown["refused"] and shown["tokens"]


def test_a_vocabulary_that_lacks_the_tokens_is_said(client: TestClient) -> None:
    shown = render(client, tokenizer="runs/mine/sft", source=template_source("gemma3"))
    assert any("vocabulary lacks" in note for note in shown["notes"])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for %}", "not valid Jinja"),
        ("{{ messages[0].nope.nope }}", ""),
        ("{{ 1 / 0 }}", ""),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", ""),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", ""),
        ("{% include '/etc/passwd' %}", ""),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ""),
    ],
)
def test_a_template_that_fails_is_an_error_with_its_words(client: TestClient, source: str, words: str) -> None:
    for ask in ({}, {"tokenizer": "runs/mine/sft"}):
        error = refused(client, source, **ask)
        assert error["type"] == "invalid_request_error" and words in error["message"]
        assert "root:" not in error["message"] and "uid=" not in error["message"]
    assert alive(client)


LOOP = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
BOMBS = {
    "time": LOOP,
    "time of one call": "{{ 9 ** (9 ** 9) }}",
    "memory": "{{ 'a' * 10 ** 12 }}",
    "memory by doubling": "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "output": "{{ 'ab ' * 3000000 }}<|im_end|>",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_stopped_and_the_server_goes_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(playground, "RENDER_SECONDS", 1.5)
    assert alive(client)
    began = time.monotonic()
    error = refused(client, BOMBS[name], tokenizer="runs/mine/sft")
    assert time.monotonic() - began < 8
    assert error["code"] in ("template_limit", "template_error") and error["message"]
    assert alive(client), "the worker lives"


def test_a_bomb_leaves_no_process_behind(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def renderers() -> int:
        children = psutil.Process(os.getpid()).children(recursive=True)
        return sum("playground_worker" in " ".join(c.cmdline()) for c in children)

    assert alive(client)
    before = renderers()  # other tests of this process may have theirs
    monkeypatch.setattr(playground, "RENDER_SECONDS", 1.0)
    refused(client, LOOP, tokenizer="runs/mine/sft")
    assert renderers() == before


def test_requests_beside_a_bomb_wait_and_are_answered(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "RENDER_SECONDS", 1.5)
    assert alive(client)
    with ThreadPoolExecutor(2) as pool:
        bomb = pool.submit(refused, client, LOOP, tokenizer="runs/mine/sft")
        assert pool.submit(alive, client).result() and "too long" in bomb.result()["message"]


def test_too_many_at_once_are_told_to_come_again(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playground, "WAITING", 1)
    worker = RenderWorker({"m": tokenizer})
    assert worker._room.acquire(blocking=False)
    with pytest.raises(Refusal) as caught:
        worker.ask({"operation": "render"}, 1.0)
    assert caught.value.status == 429


def test_the_other_process_is_told_no_secrets(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    for name in ("LUOPAN_API_KEY", "HF_TOKEN", "ANYTHING_AT_ALL"):
        monkeypatch.setenv(name, "secret-of-the-server")
    worker = RenderWorker({"m": tokenizer})
    try:
        worker.warm()
        assert worker._process is not None
        told = psutil.Process(worker._process.pid).environ()
        assert "PATH" in told and "secret-of-the-server" not in told.values()
    finally:
        worker.close()


def test_the_other_process_ends_with_the_application(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from serve_kit import served, tiny_model

    from luopan.serve.app import create_app
    from luopan.serve.config import ServeSettings

    workers = []

    class Noted(RenderWorker):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            workers.append(self)

    monkeypatch.setattr(playground, "RenderWorker", Noted)
    model = served(tiny_model(len(tokenizer)), tokenizer, "m")
    with TestClient(create_app([model], ServeSettings(runs=tmp_path)), base_url="http://localhost") as client:
        assert client.post("/api/templates/warm").status_code == 204
        [worker] = workers
        process = worker._process
        assert process is not None and process.poll() is None
    assert process.poll() is not None
    with pytest.raises(Refusal) as caught:
        worker.ask({"operation": "lint"}, 1.0)
    assert caught.value.status == 503


def test_a_closed_worker_lets_go_of_what_it_was_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    worker = RenderWorker({"m": tokenizer})
    worker.warm()
    ask = {"operation": "render", "tokenizer": "m", "source": LOOP, "messages": TALK, "prompt": False}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(worker.ask, {**ask, "train_on": "assistant"}, 30.0)
        time.sleep(0.5)
        began = time.monotonic()
        worker.close()
        with pytest.raises(Refusal):
            asked.result()
    assert time.monotonic() - began < 5


def test_a_process_that_does_not_read_is_killed(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    worker = RenderWorker({"m": tokenizer})
    worker.warm()
    process = worker._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(Refusal) as caught:
        worker._send(b"x" * (1 << 22), 0.5)  # more than a pipe holds
    assert caught.value.code == "worker" and time.monotonic() - began < 5
    assert process.poll() is not None


def test_pipes_are_watched_whatever_their_number() -> None:
    import fcntl
    import resource

    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2100:
        pytest.skip("fewer than 2,100 files may be open")
    reading, writing = os.pipe()
    high = fcntl.fcntl(writing, fcntl.F_DUPFD, 2000)
    try:
        assert playground._ready(high, select.POLLOUT, 1.0)
        assert not playground._ready(reading, select.POLLIN, 0.05)
    finally:
        for one in (reading, writing, high):
            os.close(one)


def test_the_limits_hold_where_there_is_no_proc(tmp_path: Path) -> None:
    """As on macOS: what bounds memory is left out, the rest is not."""
    code = (
        "import resource, sys; from pathlib import Path; from luopan.serve.playground_worker import _limit; "
        "_limit(3, Path(sys.argv[1])); "
        "print(*[resource.getrlimit(one)[0] for one in (resource.RLIMIT_CPU, resource.RLIMIT_AS)])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", str(resource_limit())]


def resource_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0]


def test_a_worker_that_was_killed_is_started_again(client: TestClient) -> None:
    import psutil

    assert alive(client)
    for worker in [c for c in psutil.Process().children() if "playground_worker" in " ".join(c.cmdline())]:
        worker.kill()  # those of other servers in this process come back as well
        worker.wait(10)
    assert alive(client)


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"source": None}, 400),
        ({"tokenizer": "nobody"}, 404),
        ({"tokenizer": "runs/mine/sft", "messages": []}, 400),
        ({"tokenizer": "runs/mine/sft", "messages": "x"}, 400),
        ({"tokenizer": "runs/mine/sft", "messages": [3]}, 400),
        ({"tokenizer": "runs/mine/sft", "messages": [{"role": "critic", "content": "x"}]}, 400),
        ({"tokenizer": "runs/mine/sft", "messages": [{"role": "user", "content": 3}]}, 400),
        ({"tokenizer": "runs/mine/sft", "tools": {"a": 1}}, 400),
        ({"tokenizer": "runs/mine/sft", "train_on": "nothing"}, 400),
        ({"tokenizer": "runs/mine/sft", "surprise": 1}, 400),
        ({"source": "x" * 300_000}, 400),
        ({"source": "x", "messages": [{"role": "user", "content": "y" * 600_000}]}, 413),
    ],
)
def test_requests_that_make_no_sense_are_refused(client: TestClient, ask: Json, code: int) -> None:
    error = render(client, code, **ask)["error"]
    assert error["message"] and error["type"] == "invalid_request_error"


def test_text_that_is_no_unicode_is_refused(client: TestClient) -> None:
    body = json.dumps({"tokenizer": "runs/mine/sft", "messages": [{"role": "user", "content": "\ud800"}]})
    assert client.post("/api/templates/render", content=body).status_code == 400
    assert alive(client)


def test_a_character_of_several_tokens_stands_with_the_last(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("a👋b", add_special_tokens=False).input_ids
    texts = [token["text"] for token in token_texts(tokenizer, ids)]
    assert len(ids) == 6 and texts == ["a", "", "", "", "👋", "b"]
    assert "".join(t["text"] for t in token_texts(tokenizer, ids[:3])) == "a"


def test_a_model_of_a_sentencepiece_kind_keeps_its_spaces(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = {"<unk>": 0, "▁the": 1, "▁cat": 2, "s": 3}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    foreign = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert [token["text"] for token in token_texts(foreign, [1, 2, 3])] == ["the", " cat", "s"]
