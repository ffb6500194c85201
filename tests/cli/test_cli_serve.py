"""`luopan serve` as a process: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luopan.cli.main import run_verb
from luopan.tokens.tokenizer import load_tokenizer, save_tokenizer

pytestmark = pytest.mark.e2e
Start = Callable[[Sequence[str]], "subprocess.Popen[str]"]
Refusal = Callable[..., str]
Serving = Callable[..., tuple["subprocess.Popen[str]", str, list[str]]]


def printed(process: subprocess.Popen[str], word: str) -> list[str]:
    """Lines up to the one with this word."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if word in line:
            return lines
    raise AssertionError(f"it ended with {process.wait()} without {word!r}: {lines}")


@pytest.fixture
def serving(start: Start, run_folder: Path) -> Iterator[Serving]:
    started: list[subprocess.Popen[str]] = []

    def call(*more: str) -> tuple[subprocess.Popen[str], str, list[str]]:
        process = start(["serve", str(run_folder / "sft"), "--port", "0", "--no-page", *more])
        started.append(process)
        lines = printed(process, "curl ")
        url = next(line for line in lines if line.startswith("serving ")).split(" at ")[1].split("/v1")[0]
        return process, url, lines

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """What `luopan serve …` says when it refuses to start."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert run_verb("serve", arguments) == 2
        return capsys.readouterr().err

    return call


def test_it_serves_and_ends_on_sigterm(serving: Serving) -> None:
    process, url, lines = serving()
    assert "serving sft at" in lines[0] and "warning" not in "".join(lines)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    answer = client.chat.completions.create(
        model="sft", messages=[{"role": "user", "content": "hello"}], max_tokens=7, temperature=0
    )
    assert answer.usage is not None and answer.usage.completion_tokens <= 7
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_the_curl_line_that_it_prints_works(serving: Serving) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    _, _, lines = serving("--name", "my model")
    done = subprocess.run(f"{lines[-1]} -s", shell=True, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["model"] == "my model", done


def test_ctrl_c_lets_a_request_finish(serving: Serving) -> None:
    process, url, _ = serving("--drain-seconds", "20")
    body: dict[str, Any] = {"model": "sft", "prompt": "hello", "max_tokens": 100, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert process.wait(20) == 130


def test_a_taken_port_is_said_in_a_line(refusal: Refusal, run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refusal(str(run_folder / "sft"), "--port", str(port))
    assert said.startswith(f"error: port {port} of 127.0.0.1 is taken") and len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "no.such.host.invalid"], "there is no address"),
        (["--host", "192.0.2.1"], "is no address of this machine"),
        (["--cors-origin", "example.org"], "is no origin"),
        (["--name", "a", "--name", "b"], "2 names for 1 models"),
        (["--port", "99999"], "port"),
        (["--max-batch", "0"], "max-batch"),
        (["--max-cache-gb", "0"], "max_cache_gb"),
        (["--device", "quantum"], "there is no device 'quantum'"),
        (["--quantize", "int3"], "quantize"),
    ],
)
def test_options_that_cannot_be(refusal: Refusal, run_folder: Path, arguments: list[str], said: str) -> None:
    assert said in refusal(str(run_folder / "sft"), "--port", "0", *arguments)


def test_models_that_cannot_be(refusal: Refusal, run_folder: Path, tmp_path: Path) -> None:
    said = refusal(str(run_folder / "stf"), "--port", "0")
    assert "no such model" in said and "sft" in said
    half = tmp_path / "half"
    shutil.copytree(run_folder / "sft" / "model", half)
    (half / "model.safetensors").unlink()
    assert refusal(str(half), "--port", "0").startswith("error: ")
    shutil.copy(run_folder / "sft" / "model" / "model.safetensors", half)
    (half / "tokenizer.json").write_text("{")
    assert refusal(str(half), "--port", "0").startswith("error: ")
    said = refusal(str(run_folder / "sft"), str(run_folder / "sft"), "--port", "0")
    assert "two models would be called" in said and "--name" in said


def test_a_tokenizer_of_another_model(refusal: Refusal, run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(run_folder / "sft" / "model", folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"more{number}" for number in range(40)])
    save_tokenizer(tokenizer, folder)
    assert "the tokenizer has 424 tokens, the model 384" in refusal(str(folder), "--port", "0")


def test_all_the_world_without_a_key_is_warned_of(serving: Serving) -> None:
    process, _, lines = serving("--host", "0.0.0.0")
    assert any(line.startswith("warning: whoever reaches 0.0.0.0") for line in lines)
    process.kill()
    process, url, lines = serving("--host", "0.0.0.0", "--api-key", "secret")
    assert (
        not any("warning" in line for line in lines) and "$LUOPAN_API_KEY" in lines[-1] and "secret" not in str(lines)
    )
    assert httpx.get(f"{url}/v1/models").status_code == 401
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(20) == 130 and time.monotonic() - began < 10


def test_missing_packages_are_named(run_folder: Path) -> None:
    program = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('fastapi', 'uvicorn') else found(name, *a)\n"
        f"from luopan.cli.main import main; main(['serve', {str(run_folder / 'sft')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "error: the server needs fastapi, uvicorn, not installed here\n  pip install luopan[serve]\n"
