"""Real servers in threads of the test's process, around models small enough to answer at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import torch
import uvicorn
from fastapi import FastAPI
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from luopan.generate.text import TextGenerator
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.serve.app import create_app
from luopan.serve.config import ServeSettings
from luopan.serve.models import ServedModel
from luopan.serve.server import http_config
from luopan.tokens.chat import encode_prompt

CONTEXT = 640


def apart(asked: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives, in a thread of its own: this one may have a loop already (Playwright's)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asked).result()


def tiny_model(vocab_size: int, **changes: Any) -> Decoder:
    """Random weights: answers depend on every token of the prompt."""
    values = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
        "initializer_range": 0.25,
    }  # fmt: skip
    model = Decoder(ModelConfig.model_validate(values | changes)).eval()
    model.reset_parameters(0)
    return model


class ScriptedModel(nn.Module):
    """Says what the test tells it to, after a prompt of the length that the test says; slowly, if it is told to."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.config = tiny_model(len(tokenizer)).config
        self.weight = nn.Parameter(torch.zeros(1))
        self.script: list[int] = [5]
        self.start = 0
        self.step_seconds = 0.0
        self.fails: Exception | None = None
        self.steps = 0

    def says(self, text: str, messages: Sequence[dict[str, Any]] | str, *, end: bool = True, **more: Any) -> None:
        """The reply to these messages, or to this text."""
        encode = self.tokenizer.backend_tokenizer.encode
        if isinstance(messages, str):
            self.start = len(encode(messages, add_special_tokens=False).ids)
        else:
            self.start = len(encode_prompt(self.tokenizer, messages, **more))
        self.script = list(encode(text, add_special_tokens=False).ids)
        if end:
            self.script.append(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))

    def hidden(self, input_ids: Tensor, position_ids: Tensor | None = None, cache: object = None) -> Tensor:
        self.steps += 1
        if self.fails is not None:
            raise self.fails
        if self.step_seconds:
            time.sleep(self.step_seconds)
        assert position_ids is not None
        return position_ids[..., None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        place = hidden[..., 0].long() + 1 - self.start
        script = torch.tensor(self.script)
        following = script[place.remainder(len(script))]
        return 30.0 * nn.functional.one_hot(following, self.config.vocab_size).float()


class RepeatingModel(ScriptedModel):
    """Says the last token of its prompt again and again."""

    def hidden(self, input_ids: Tensor, position_ids: Tensor | None = None, cache: object = None) -> Tensor:
        super().hidden(input_ids, position_ids)
        return input_ids[..., None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        return 30.0 * nn.functional.one_hot(hidden[..., 0].long(), self.config.vocab_size).float()


@dataclass
class Running:
    """A server that runs."""

    app: FastAPI
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> openai.OpenAI:
        """The official client; it does not try again by itself."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 60} | more)

    def http(self, **more: Any) -> httpx.Client:
        """A plain client."""
        return httpx.Client(base_url=self.url, timeout=60, **more)

    def worker(self, name: str) -> Any:
        return self.app.state.desk.workers[name]

    def idle(self, name: str, seconds: float = 10.0) -> bool:
        """Whether the worker's session becomes empty in time."""
        worker = self.worker(name)

        def empty() -> bool:
            return worker.inside == 0 and (worker._session is None or not worker._session.unfinished)

        return until(empty, seconds)


def until(found: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(0.01)
    return bool(found())


@contextmanager
def running(models: Sequence[ServedModel], **settings: Any) -> Iterator[Running]:
    """A server of these models, on a port of its own, with a real socket."""
    app = create_app(models, ServeSettings(**{"page": False, **settings}))
    server = uvicorn.Server(http_config(app))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    try:
        assert until(lambda: server.started, 30), "the server did not start"
        yield Running(app, sock.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()
    assert not thread.is_alive(), "the server did not end"


def served(model: Any, tokenizer: PreTrainedTokenizerFast, name: str, **more: Any) -> ServedModel:
    return ServedModel(name, TextGenerator(model, tokenizer, max_batch=64), **more)
