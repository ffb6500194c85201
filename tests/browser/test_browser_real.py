"""The page over the real server, with models of random weights."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from transformers import PreTrainedTokenizerFast

from luopan.generate.text import TextGenerator
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.serve.app import create_app
from luopan.serve.config import ServeSettings
from luopan.serve.models import ServedModel

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def real(
    tokenizer: PreTrainedTokenizerFast, runs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """(address, app) of a server with two models, and a key."""
    torch.set_num_threads(1)
    votes = tmp_path_factory.mktemp("real") / "votes.jsonl"
    settings = ServeSettings(runs=runs_folder, tally=votes, api_key="sesame")
    shape = ModelConfig.model_validate(
        {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    )  # fmt: skip
    model = Decoder(shape).eval()
    model.reset_parameters(0)
    hidden = model.hidden

    def unhurried(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.004)  # else an answer is over before it can be stopped
        return hidden(*arguments, **named)

    model.hidden = unhurried  # type: ignore[method-assign]
    served = [ServedModel(name, TextGenerator(model, tokenizer)) for name in ("one", "two")]
    app = create_app(served, settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", app
    server.should_exit = True
    thread.join(timeout=15)


@pytest.fixture
def page(open_page: Open, real: Any) -> Any:
    page = open_page("#/chat", at=real[0], errors_meant=True, wait="dialog", viewport={"width": 1400, "height": 820})
    page.fill("dialog input", "sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(".welcome")
    page.wait_for_selector("#param-max_tokens")
    return page


def ask(page: Any, text: str) -> str:
    before = page.locator(".message").count()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.wait_for_selector(f".message:nth-child({before + 2}) .figures")
    return page.locator(".message").last.inner_text()


def test_a_model_answers_with_the_servers_own_counts(page: Any) -> None:
    page.fill("#param-max_tokens", "12")
    page.fill("#param-seed", "3")
    page.fill("#param-temperature", "1")
    page.fill("#param-top_k", "20")
    page.fill("#param-min_p", "0.01")
    page.fill("#param-repetition_penalty", "1.1")
    said = ask(page, "hello")
    assert "12 tokens" in said and "tokens/s" in said and "prompt" in said
    assert "Cut off at the limit" in said
    body = page.locator(".message .md, .message .thoughts").first.inner_text()
    page.click("[aria-label='Answer again']")
    page.wait_for_selector("text=2 / 2")
    assert page.locator(".message .md, .message .thoughts").first.inner_text() == body, "the same seed, the same answer"


def test_stopping_frees_the_server(page: Any, real: Any) -> None:
    page.fill("#param-max_tokens", "1900")
    page.fill("#param-temperature", "0")  # random weights that always take the likeliest token go round in circles
    page.fill("#prompt", "on and on")
    page.press("#prompt", "Enter")
    worker = real[1].state.desk.workers["one"]

    def until(inside: int) -> bool:
        deadline = time.monotonic() + 10
        while worker.inside != inside and time.monotonic() < deadline:
            time.sleep(0.02)
        return worker.inside == inside

    assert until(1), "it is being answered"
    page.click(".send.busy")
    page.wait_for_selector("text=Stopped.")
    assert until(0), "and no longer, once it was stopped"


def test_a_prompt_that_is_too_long_is_said_in_the_servers_words(page: Any) -> None:
    page.fill("#prompt", "many words " * 3000)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".message .notice.bad")
    assert "2048" in page.locator(".message .notice.bad").inner_text().replace(",", "")


def test_the_other_tabs_work_over_the_real_server(page: Any) -> None:
    page.click("#tab-compare")
    page.wait_for_selector("#compare-begin")
    page.fill("#param-max_tokens", "5")
    page.click("[data-value=paste]")
    page.fill("[aria-label='Paste your own']", "one prompt")
    page.click("#compare-begin")
    page.wait_for_selector(".ballot kbd")
    page.keyboard.press("t")
    page.wait_for_selector(".scores tbody tr:nth-child(2)")
    page.click("#tab-templates")
    page.wait_for_selector(".tokens .tok.trained", timeout=60_000)
    page.click("#tab-runs")
    page.click(".run-link:has-text('mine')")
    page.click("[data-page='report.html']")
    page.frame_locator("iframe").locator("h1").wait_for(timeout=60_000)
