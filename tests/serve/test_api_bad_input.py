"""Bad requests: an OpenAI-shaped 4xx that names the field, and the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_kit import Running, ScriptedModel, running, served, tiny_model
from transformers import PreTrainedTokenizerFast

MESSAGE = {"role": "user", "content": "the cat"}
CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client
        health = client.get("/health")
        assert health.status_code == 200 and health.json()["status"] == "ok"
        good = client.post(CHAT, json={"model": "noise", "messages": [MESSAGE], "max_tokens": 2})
        assert good.status_code == 200, "the server does not answer any more"


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of an answer, whose form is checked."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 10**6}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 50}, "stop"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, None),
        ({"messages": [{"role": "user", "content": "x", "name": "Bob"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages.0.colour"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [MESSAGE, {"role": "assistant"}]}, "messages.1.content"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,xx"}}]}
                ]
            },
            "messages.0.content.0",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format",
        ),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "no grammar"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "min_tokens": 5}, "min_tokens"),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"nonsense": 1}}, "messages"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"temprature": 1}, "temprature"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"store": True}, "store"),
        ({"modalities": ["audio"]}, "modalities.0"),
        ({"stream": "yes"}, "stream"),
        ({"model": 5}, "model"),
    ],
)
def test_chats_that_cannot_be(http: httpx.Client, change: dict[str, Any], param: str | None) -> None:
    body = {"model": "noise", "messages": [MESSAGE], "max_tokens": 4, **change}
    if "max_completion_tokens" in change and "max_tokens" not in change:
        del body["max_tokens"]
    error = refused(http.post(CHAT, content=json.dumps(body), headers={"content-type": "application/json"}))
    if param is not None:
        assert error["param"] == param, error


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": []}, "prompt"),
        (TEXT, {"prompt": [[]]}, "prompt"),
        (TEXT, {"prompt": [5, 10**6]}, "prompt"),
        (TEXT, {"prompt": [-1]}, "prompt"),
        (TEXT, {"prompt": [5] * 640}, "prompt"),
        (TEXT, {"prompt": ["the", ""]}, "prompt"),
        (TEXT, {"prompt": None}, "prompt"),
        (TEXT, {"max_tokens": 0}, "max_tokens"),
        (TEXT, {"n": 3, "best_of": 2}, "best_of"),
        (TEXT, {"best_of": 2, "stream": True}, "best_of"),
        (TEXT, {"suffix": "end"}, "suffix"),
        (TEXT, {"logprobs": 21}, "logprobs"),
        (VECTORS, {"input": ""}, "input"),
        (VECTORS, {"input": []}, "input"),
        (VECTORS, {"input": [5] * 641}, "input"),
        (VECTORS, {"dimensions": 7}, "dimensions"),
        (VECTORS, {"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_others_that_cannot_be(http: httpx.Client, path: str, change: dict[str, Any], param: str) -> None:
    body: dict[str, Any] = {"model": "noise", **({"input": "the"} if path == VECTORS else {"prompt": "the"}), **change}
    error = refused(http.post(path, json=body))
    assert (error["param"] or "").partition(".")[0] == param, error


def test_a_prompt_too_long_says_so(http: httpx.Client) -> None:
    error = refused(http.post(TEXT, json={"model": "noise", "prompt": [5] * 640}))
    assert error["code"] == "context_length_exceeded" and "640" in error["message"]


def test_greedy_takes_filters_that_change_nothing(http: httpx.Client) -> None:
    body = {"model": "noise", "messages": [MESSAGE], "max_tokens": 8, "temperature": 0}
    plain = http.post(CHAT, json=body).json()["choices"]
    assert http.post(CHAT, json={**body, "top_p": 0.5, "top_k": 3, "min_p": 0.1}).json()["choices"] == plain
    assert http.post(CHAT, json={**body, "temperature": 1e-30}).json()["choices"] == plain


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"5", b'"text"', b"\xff\xfe", b'{"model": "\xc3\x28"}', b"\x00", b"[" * 100_000,
        b'{"model": "noise", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "noise", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "noise", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "noise", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "noise", "messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "noise", "messages": [{"role": "user", "content": "x"}], "\\ud800": 1}',
        b'{"model": "noise", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", '
        b'"function": {"name": "f", "description": "\\ud800"}}]}',
        b'{"model": "noise", "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": '
        b'{"custom_instructions": "\\ud800"}}',
    ],
)  # fmt: skip
def test_bodies_that_are_none(http: httpx.Client, content: bytes) -> None:
    refused(http.post(CHAT, content=content, headers={"content-type": "application/json"}))


def test_json_must_be_called_json(http: httpx.Client) -> None:
    """A browser sends text/plain to other origins without asking."""
    body = json.dumps({"model": "noise", "messages": [MESSAGE]})
    error = refused(http.post(CHAT, content=body, headers={"content-type": "text/plain"}))
    assert "application/json" in error["message"]


def test_a_large_body_is_refused(http: httpx.Client) -> None:
    error = refused(http.post(CHAT, content=b" " * (50 * 2**20), headers={"content-type": "application/json"}), 413)
    assert error["code"] == "request_too_large"


def test_a_large_body_in_chunks_is_refused(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 2**20

    refused(http.post(CHAT, content=chunks(), headers={"content-type": "application/json"}), 413)


def test_a_length_that_lies(server: Running, http: httpx.Client) -> None:
    """Fewer bytes than announced, and then nothing: the server goes on for the others."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert http.get("/v1/models").status_code == 200


def test_models_that_are_not_there(http: httpx.Client, client: openai.OpenAI) -> None:
    error = refused(http.post(CHAT, json={"model": "gpt", "messages": [MESSAGE]}), 404)
    assert error["code"] == "model_not_found" and "noise, actor, base" in error["message"]
    half = b'{"model": "\\ud800", "prompt": "x"}'
    refused(http.post(TEXT, content=half, headers={"content-type": "application/json"}), 404)
    with pytest.raises(openai.NotFoundError, match="noise, actor, base"):
        client.completions.create(model="gpt", prompt="x")


def test_a_model_without_template_does_not_chat(http: httpx.Client) -> None:
    error = refused(http.post(CHAT, json={"model": "base", "messages": [MESSAGE]}))
    assert error["code"] == "no_chat_template" and "no chat template" in error["message"]


def test_addresses_that_are_none(http: httpx.Client) -> None:
    refused(http.get("/v1/other"), 404)
    refused(http.get(CHAT), 405)
    refused(http.delete("/v1/models"), 405)


def test_names_that_are_not_this_machines(server: Running, http: httpx.Client) -> None:
    """A page of the web can have its own name resolve to 127.0.0.1."""
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        assert refused(http.get("/v1/models", headers={"host": host}), 403)["code"] == "unknown_host"
    for host in ("localhost", "127.0.0.1:99", "[::1]:8000", "LOCALHOST:1"):
        assert http.get("/v1/models", headers={"host": host}).status_code == 200, host


def test_pages_of_other_origins_may_not_ask(server: Running, http: httpx.Client) -> None:
    body = {"model": "noise", "messages": [MESSAGE], "max_tokens": 2}
    for origin in ("https://evil.example", "null", "http://[", "http://[::1", ""):
        assert refused(http.post(CHAT, json=body, headers={"origin": origin}), 403)["code"] == "foreign_origin"
    assert http.post(CHAT, json=body, headers={"origin": server.url}).status_code == 200
    assert "access-control-allow-origin" not in http.get("/health", headers={"origin": "https://evil.example"}).headers


def test_a_step_that_fails_is_a_500_and_no_more(
    http: httpx.Client, actor: ScriptedModel, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    actor.says("sat", [MESSAGE])
    actor.fails = RuntimeError("the secret of the insides")
    body = {"model": "actor", "messages": [MESSAGE], "temperature": 0}
    for stream in (False, True):  # before the first token a stream has its status, too
        error = refused(http.post(CHAT, json={**body, "stream": stream}), 500)
        assert "RuntimeError" in error["message"] and "secret" not in error["message"]
    actor.fails = None
    assert http.post(CHAT, json=body).json()["choices"][0]["message"]["content"] == "sat"
    assert "the secret of the insides" in caplog.text  # for whoever runs the server


def test_a_stream_that_fails_says_so(client: openai.OpenAI, actor: ScriptedModel) -> None:
    actor.says("sat on a mat", [MESSAGE], end=False)
    with pytest.raises(openai.APIError, match="the server failed"):
        for number, _ in enumerate(client.chat.completions.create(model="actor", messages=[MESSAGE], stream=True)):  # type: ignore[list-item]
            if number == 5:
                actor.fails = RuntimeError("broken")


def test_keys(tokenizer: PreTrainedTokenizerFast) -> None:
    model = served(tiny_model(len(tokenizer)), tokenizer, "noise")
    with running([model], api_key="söcret") as server, server.http() as http:
        for key in (None, "Bearer wrong", "Basic söcret", "Bearer", "söcret"):
            given = {} if key is None else {"authorization": key.encode()}
            for ask in (lambda: http.get("/v1/models", headers=given), lambda: http.post(CHAT, json={}, headers=given)):  # noqa: B023
                answer = ask()
                assert refused(answer, 401)["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models", headers={"authorization": "Bearer söcret".encode()}).status_code == 200
    for last in ("Р", "…x…Ѕ"):  # their last bytes, A0 and 85, are white space in latin-1
        with running([model], api_key=last) as server, server.http() as http:
            for given in (last, f" {last}"):
                authorised = {"authorization": f"Bearer {given}".encode()}
                assert http.get("/v1/models", headers=authorised).status_code == 200
    with running([model], api_key="secret") as server:
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="wrong").models.list()
        assert server.client(api_key="secret").models.list().data[0].id == "noise"


def test_the_page_is_there_and_asks_for_the_key_only_where_it_asks(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = served(tiny_model(len(tokenizer)), tokenizer, "noise")
    with running([model], api_key="secret", page=True, runs=tmp_path) as server, server.http() as http:
        assert "<html" in http.get("/").text and http.get("/page.json").status_code == 200
        for path in ("/api/templates", "/api/runs", "/api/compare/votes"):
            refused(http.get(path), 401)
            assert http.get(path, headers={"authorization": "Bearer secret"}).status_code == 200, path


def test_origins_that_may_ask(tokenizer: PreTrainedTokenizerFast) -> None:
    model = served(tiny_model(len(tokenizer)), tokenizer, "noise")
    with running([model], cors_origins=("https://good.example",)) as server, server.http() as http:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        good = http.options(CHAT, headers={"origin": "https://good.example", **asked})
        assert good.status_code == 200 and good.headers["access-control-allow-origin"] == "https://good.example"
        bad = http.options(CHAT, headers={"origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in bad.headers
        body = {"model": "noise", "messages": [MESSAGE], "max_tokens": 1}
        answer = http.post(CHAT, json=body, headers={"origin": "https://good.example"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://good.example"
