"""A server for the page: our own routes, and a made-up `/v1` that says what a test asks it to.

    python tests/browser/fake_server.py --port 8765 --runs /tmp/qruns --tokenizer smollm2=/tmp/smollm2

The model does as the last user message says: "think …", "tool …", "slow …", "steady …", "fail …", "break …",
"echo TEXT".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import PreTrainedTokenizerFast

from luopan.serve import page
from luopan.serve.playground import playground_router
from luopan.serve.runs import runs_router
from luopan.serve.tally import tally_router

FACTS = {
    "description": "0.8M parameters, trained by the quickstart",
    "context": 256,
    "parameters": 806_976,
    "thinking": True,
    "tools": True,
    "default_sampling": {"temperature": 0.7, "top_p": 0.95, "top_k": 0},
}
MARKDOWN = """Here is **a list**, and `code`:

1. first, with [a link](https://example.com/)
2. second, *emphasised*

```python
def longest(sentence: str) -> str:
    return max(sentence.split(), key=len)
```

| word | length |
|---|---:|
| sea | 3 |
| compass | 7 |

> A quote, and <b>no markup</b>.
"""
ATTACK = """<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>

[click](javascript:window.hacked=1) ![p](https://evil.example/p.png) <iframe src="https://evil.example/"></iframe>

```html
</code></pre><script>window.hacked=1</script>
```

[data](data:text/html,<script>window.hacked=1</script>) `<svg onload=window.hacked=1>`
"""


def fake_app(
    *,
    runs: Path,
    votes: Path,
    tokenizers: dict[str, PreTrainedTokenizerFast] | None = None,
    api_key: str | None = None,
    fresh: bool = False,
) -> FastAPI:
    """`fresh`: the page's files are read anew for each request, for whoever is writing them."""
    app = FastAPI()
    app.state.asked = []
    models = [
        {"id": "runs/quickstart/sft", "object": "model", "luopan": FACTS},
        {"id": "runs/quickstart/grpo", "object": "model", "luopan": {**FACTS, "thinking": False, "tools": False}},
        {"id": "elsewhere", "object": "model"},
    ]

    @app.middleware("http")
    async def gate(request: Request, call_next: Any) -> Response:
        path = request.url.path
        given = request.headers.get("authorization")
        if api_key and path.startswith(("/v1/", "/api/")) and given != f"Bearer {api_key}":
            return error(401, "this server needs an API key", "invalid_api_key")
        if fresh:
            page.static_files.cache_clear()
        return await call_next(request)

    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        return {"object": "list", "data": models}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> Response:
        body = await request.json()
        app.state.asked.append(body)
        said = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        if said.startswith("fail"):
            return error(400, "prompt of 300 tokens is longer than the context of 256", "context_length_exceeded")
        return StreamingResponse(stream(body, said), media_type="text/event-stream")

    app.include_router(page.page_router(SimpleNamespace(api_key=api_key)))
    app.include_router(playground_router(tokenizers or {}))
    app.include_router(runs_router(runs))
    app.include_router(tally_router(votes))
    return app


def error(status: int, message: str, code: str) -> JSONResponse:
    return JSONResponse(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}, status
    )


async def stream(body: dict[str, Any], said: str) -> AsyncIterator[str]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    count = 0
    kwargs = body.get("chat_template_kwargs", {})
    if said.startswith("think") or kwargs.get("enable_thinking"):
        for word in ("7 + 5 = 12 ", "carry 1; ", "1 + 2 + ", "1 = 4."):
            yield chunk({"reasoning_content": word})
            count += 1
            await asyncio.sleep(0.005)
    if said.startswith("tool") and body["messages"][-1]["role"] != "tool":
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        yield chunk({"tool_calls": [call]})
        for part in ('{"city": ', '"Oslo"}'):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield chunk({}, "tool_calls")
    else:
        for word in answer(said, body).split(" "):
            yield chunk({"content": word + " "})
            count += 1
            await asyncio.sleep(0.05 if said.startswith(("slow", "steady")) else 0.002)
            if said.startswith("break") and count > 2:
                return
        yield chunk({}, "stop")
    usage = {"prompt_tokens": 12, "completion_tokens": count, "total_tokens": 12 + count}
    yield event({"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def answer(said: str, body: dict[str, Any]) -> str:
    if body["messages"][-1]["role"] == "tool":
        return f"The tool said {body['messages'][-1]['content']}"
    if said.startswith("markdown"):
        return MARKDOWN
    if said.startswith("attack"):
        return ATTACK
    if said.startswith("slow"):
        return " ".join(f"word{i}" for i in range(400))
    return f"{body['model'].rsplit('/')[-1]} says: {said} ({len(body['messages'])} messages)"


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps({'id': 'x', 'object': 'chat.completion.chunk', **value})}\n\n"


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The app on a port of this machine, in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def main() -> None:
    from luopan.tokens.tokenizer import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--votes", type=Path, default=Path("/tmp/votes.jsonl"))
    arguments = parser.parse_args()
    pairs = (one.split("=", 1) for one in arguments.tokenizer)
    tokenizers = {name: load_tokenizer(folder) for name, folder in pairs}
    app = fake_app(runs=arguments.runs, votes=arguments.votes, tokenizers=tokenizers, fresh=True)
    with serving(app, arguments.port) as address:
        print(address, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
