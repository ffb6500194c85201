"""A browser, and a server with the page, for the tests that look at it.

Where there is no browser these tests are skipped with the reason; with LUOPAN_REQUIRE_BROWSER=1 that is a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pydoc_data.topics
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from luopan.serve import playground
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer

playwright = pytest.importorskip("playwright.sync_api") if os.environ.get("LUOPAN_REQUIRE_BROWSER") != "1" else None
MEANT = re.compile("Failed to load|requires 'TrustedHTML'|Blocked script execution")
ROOT = Path(__file__).resolve().parents[2]


def module_at(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


fake_server = module_at(Path(__file__).with_name("fake_server.py"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found, why = module_at(ROOT / "tools" / "browser.py").find()
    if found is None:
        if os.environ.get("LUOPAN_REQUIRE_BROWSER") == "1":
            pytest.fail(f"no browser: {why}", pytrace=False)
        pytest.skip(f"no browser: {why}")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(list(pydoc_data.topics.topics.values())[:20], TokenizerConfig(vocab_size=384))


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains, and one whose name, recipe and samples try to be markup."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "mine", steps=200)
    make_run(folder / "<img src=x onerror=window.hacked=1>", steps=5, text="<script>window.hacked=1</script>")
    return folder


def make_run(run: Path, steps: int, text: str = "It is sunny.") -> None:
    stage = run / "base.partial"
    stage.mkdir(parents=True)
    rows = [
        {"step": i, "loss": 5 / i + 0.01 * (i % 3), "learning_rate": 0.001, "tokens_per_second": 900 + i,
         "tokens": i * 8,
         "seconds": i / 2, "source/books/loss": 4 / i, "source/web/loss": 3 / i, "grad_norm": 1.5}
        for i in range(1, steps + 1)
    ]  # fmt: skip
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run / "tok"
    done.mkdir()
    manifest = {"kind": "tokenizer", "name": "tok", "seconds": 3.0, "identity": "f" * 64, "spec": {"vocab_size": 384}}
    (done / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    sample = {"messages": [{"role": "user", "content": text}], "answers": {text: {"text": text, "correct": True}}}
    figure = {"name": text, "before": 0.5, "after": 0.9, "unit": "%", "headline": True, "higher_is_better": True}
    report = {"summary": text, "figures": [figure], "samples": [sample], "notes": [{"text": text, "level": "warning"}]}
    (done / "stage_report.json").write_text(json.dumps(report), encoding="utf-8")
    recipe = {"name": "mine", "description": text, "stages": {n: {"kind": k} for n, k in STAGES.items()}}
    (run / "recipe.lock.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    page = "<h1>The report</h1><script>document.body.append('RAN')</script><style>h1{color:red}</style>"
    (run / "report.html").write_text(page, encoding="utf-8")


STAGES = {"tok": "tokenizer", "base": "pretrain", "sft": "sft"}


@pytest.fixture(scope="session")
def app(runs_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Any:
    playground.RENDER_SECONDS = 2.0  # the bombs of these tests need not burn for five
    votes = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    return fake_server.fake_app(runs=runs_folder, votes=votes, tokenizers={"runs/quickstart/sft": tokenizer})


@pytest.fixture(scope="session")
def address(app: Any) -> Iterator[str]:
    with fake_server.serving(app) as url:
        yield url


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page at `path`; afterwards there must have been no error, and no request to another host."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_at(
        path: str = "",
        *,
        at: str = address,
        errors_meant: bool = False,
        wait: str = ".tabs",
        init: str = "",
        **options: Any,
    ) -> Any:
        options = {"viewport": {"width": 1280, "height": 820}, "locale": "en-GB", "color_scheme": "light", **options}
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        if init:
            context.add_init_script(init)
        page = context.new_page()

        def on_console(message: Any) -> None:
            if message.type in ("error", "warning") and not (errors_meant and MEANT.search(message.text)):
                wrong.append(f"console: {message.text}")

        def on_request(request: Any) -> None:
            if not request.url.startswith((at, "data:", "blob:")):
                wrong.append(f"request: {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        context.on("request", on_request)
        page.goto(at + path)
        page.wait_for_selector(wait)
        return page

    yield open_at
    for context in contexts:
        hacked = [page.evaluate("window.hacked === undefined") for page in context.pages if page.url.startswith("http")]
        context.close()
        assert all(hacked), "code of a text was run"
    assert not wrong, "\n".join(wrong)
