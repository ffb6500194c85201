"""Five minutes of 64 clients that come, ask, and leave as they like: nobody hears another's words, and nothing grows.

`LUOPAN_SOAK_SECONDS` shortens it. Each client has a secret word of its own, and asks two models: one that repeats the
last token of its prompt (another's word would be plain to see), and a decoder of random weights, whose answer depends
on every token of the prompt and on the seed, and must be the one that the same request got when it was alone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import httpx
import psutil
import pytest
from serve_kit import RepeatingModel, Running, apart, running, served, tiny_model
from transformers import PreTrainedTokenizerFast

SECONDS = float(os.environ.get("LUOPAN_SOAK_SECONDS", "300"))
CLIENTS = 64
GROWTH_MIB = 24


def noise_body(number: int, variant: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"the secret of {number} is {number * 7919 % 1000:03d}, it ran {variant}"}]
    return {"model": "noise", "messages": messages, "max_tokens": 8 + 8 * variant, "seed": number, "temperature": 0.9}


async def whole(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> str:
    answer = (await client.post(path, json=body)).raise_for_status().json()
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any], leave_after: int | None) -> str | None:
    """The text, or None if the client left after so many events."""
    text = ""
    async with client.stream("POST", path, json={**body, "stream": True}) as answer:
        answer.raise_for_status()
        count = 0
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            choice = event["choices"][0]
            text += (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
            count += 1
            if count == leave_after:
                return None
    return text


class Soak:
    """The clients, what they know and what they have seen."""

    def __init__(self, server: Running, words: list[tuple[int, str]], end: float) -> None:
        self.server, self.words, self.end = server, words, end
        self.alone: dict[tuple[int, int], str] = {}
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.memory: list[float] = []

    async def run(self) -> None:
        async with httpx.AsyncClient(
            base_url=self.server.url,
            timeout=120,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        ) as client:
            for number in range(CLIENTS):
                for variant in range(3):
                    body = noise_body(number, variant)
                    self.alone[number, variant] = await whole(client, "/v1/chat/completions", body)
            began = time.monotonic()
            self.end += began
            await asyncio.gather(self.watch(began), *(self.one(number, client) for number in range(CLIENTS)))

    async def watch(self, began: float) -> None:
        """Memory, from a quarter of the time on, when all buffers have their size."""
        quarter = began + (self.end - began) / 4
        while time.monotonic() < self.end:
            await asyncio.sleep(min(2.0, SECONDS / 30))
            if time.monotonic() > quarter:
                gc.collect()
                self.memory.append(psutil.Process().memory_info().rss / 2**20)

    async def one(self, number: int, shared: httpx.AsyncClient) -> None:
        draw = random.Random(number)
        token, word = self.words[number]
        while time.monotonic() < self.end:
            variant, leave = draw.randrange(3), draw.randrange(1, 12) if draw.random() < 0.3 else None
            body: dict[str, Any]
            if draw.random() < 0.5:
                count = draw.randrange(1, 60)
                body = {"model": "repeat", "prompt": [9, 9, token], "max_tokens": count}
                path, want = "/v1/completions", word * count
            else:
                body, path, want = noise_body(number, variant), "/v1/chat/completions", self.alone[number, variant]
            if draw.random() < 0.3:  # a connection of its own
                async with httpx.AsyncClient(base_url=self.server.url, timeout=120, verify=False) as own:
                    await self.ask(own, path, body, want, leave, draw)
            else:
                await self.ask(shared, path, body, want, leave, draw)

    async def ask(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: dict[str, Any],
        want: str,
        leave: int | None,
        draw: random.Random,
    ) -> None:
        if leave is not None and draw.random() < 0.3:  # gone before the answer is there
            try:
                await asyncio.wait_for(whole(client, path, body), draw.random() * 0.05)
            except TimeoutError:
                self.done["left early"] += 1
            return
        said = await (streamed(client, path, body, leave) if draw.random() < 0.7 else whole(client, path, body))
        self.done["left" if said is None else "answered"] += 1
        if said is not None and said != want:
            self.wrong.append(f"{body} said {said!r} instead of {want!r}")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_nobody_hears_another_and_nothing_grows(tokenizer: PreTrainedTokenizerFast) -> None:
    found = [(token, tokenizer.decode([token])) for token in range(20, len(tokenizer))]
    words = [(token, word) for token, word in found if word.isprintable() and "\ufffd" not in word][:CLIENTS]
    assert len({word for _, word in words}) == CLIENTS
    models = [
        served(RepeatingModel(tokenizer), tokenizer, "repeat"),
        served(tiny_model(len(tokenizer)), tokenizer, "noise"),
    ]
    with running(models, max_batch=24, max_queue=256) as server:
        threads = threading.active_count()
        soak = Soak(server, words, SECONDS)
        apart(soak.run())
        assert server.idle("repeat") and server.idle("noise")
        assert server.app.state.gate.active == 0
        for name in ("repeat", "noise"):
            worker = server.worker(name)
            assert not worker._live and not worker._waiting and not worker._cancelled and not worker._session.finished
        assert threading.active_count() <= threads + 2
    print(f"\n{dict(soak.done)}; MiB after a quarter {soak.memory[0]:.0f}, at the end {soak.memory[-1]:.0f}")
    assert soak.done["answered"] > CLIENTS and soak.done["left"] > 5 and soak.done["left early"] > 0
    assert not soak.wrong, f"{len(soak.wrong)} of {soak.done['answered']}: {soak.wrong[:3]}"
    first, last = soak.memory[: len(soak.memory) // 3], soak.memory[-len(soak.memory) // 3 :]
    assert sum(last) / len(last) - sum(first) / len(first) < GROWTH_MIB, soak.memory
