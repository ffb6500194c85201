"""Other weights in a running server, and a training's sampler over it, against the engine in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from serve_kit import Running, ScriptedModel, running, served, tiny_model
from transformers import PreTrainedTokenizerFast

from luopan.errors import FeedUnavailable, ModelError, RecipeError
from luopan.generate.config import SamplingParams
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.rl.endpoint import Command, EndpointSampler, HandOver, Reload, own_seed, weights_hash
from luopan.rl.line import Line, Refused
from luopan.serve.errors import ApiError
from luopan.tokens.chat import stop_ids

PARAMS = SamplingParams(max_new_tokens=24, temperature=0.7)
LONG = list(range(40, 140))  # its keys and values would be taken over from the request before
PROMPTS = [[5, 6, 7], [5, 6, 7], [9, 8], LONG]


@pytest.fixture
def noise(tokenizer: PreTrainedTokenizerFast) -> Decoder:
    return tiny_model(len(tokenizer))


@pytest.fixture
def hosted(noise: Decoder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Iterator[Running]:
    """A server of `noise`'s twin that may be told other weights."""
    twin = tiny_model(len(tokenizer))
    sampling = {"top_p": 0.5, "repetition_penalty": 1.3}  # a request that is silent would get these
    with running([served(twin, tokenizer, "policy", default_sampling=sampling)], reload_from=tmp_path) as server:
        yield server


@pytest.fixture
def sampler(hosted: Running, noise: Decoder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> EndpointSampler:
    line = Line(f"{hosted.url}/v1", patience=20)
    hand_over = HandOver(
        noise, lambda folder: hf.save(noise, folder, architecture="auto"), tmp_path / "weights", Reload(line, "policy")
    )
    return EndpointSampler(line, "policy", stop_ids(tokenizer), len(tokenizer), hand_over)


def change(model: Decoder, seed: int) -> None:
    with torch.no_grad():
        other = tiny_model(model.config.vocab_size)
        other.reset_parameters(seed)
        model.load_state_dict(other.state_dict())


def own(model: Decoder, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], seed: int) -> list[Any]:
    """What the engine here says: each answer by its own seed, as the sampler asks for it."""
    engine = served(model, tokenizer, "own").generator.engine
    return [engine.generate([p], PARAMS, seed=own_seed(seed, key), request_ids=[0])[0] for key, p in enumerate(prompts)]


def test_it_samples_what_the_engine_here_samples(
    sampler: EndpointSampler, noise: Decoder, tokenizer: PreTrainedTokenizerFast, hosted: Running, tmp_path: Path
) -> None:
    endings = set()
    for seed in range(3):
        change(noise, seed)
        found = sampler.generate(PROMPTS, PARAMS, seed=11)
        expected = own(noise, tokenizer, PROMPTS, 11)
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
        gaps = [abs(a - b) for x, y in zip(found, expected) for a, b in zip(x.logprobs, y.logprobs, strict=True)]
        assert max(gaps) < 1e-5
        assert found[0].tokens != found[1].tokens, "answers to one prompt have seeds of their own"
        endings |= {one.finish_reason for one in found}
        listed = hosted.http().get("/v1/models/policy").json()["luopan"]["weights"]
        assert listed == weights_hash(noise)
    assert "length" in endings and list((tmp_path / "weights").iterdir()) == []
    again = sampler.generate([PROMPTS[3], PROMPTS[0]], PARAMS, seed=11, request_ids=[3, 0])
    assert [one.tokens for one in again] == [expected[3].tokens, expected[0].tokens]


def test_the_stop_token_comes_with_its_log_probability(scripted: ScriptedModel, actor: ScriptedModel) -> None:
    tokenizer = scripted.tokenizer
    prompt = tokenizer.backend_tokenizer.encode("the", add_special_tokens=False).ids
    actor.says("the cat", "the")
    with running([served(scripted, tokenizer, "actor")]) as server:
        sampler = EndpointSampler(Line(f"{server.url}/v1"), "actor", stop_ids(tokenizer), len(tokenizer))
        (found,) = sampler.generate([prompt], PARAMS, seed=1)
    assert found.tokens == actor.script and found.tokens[-1] in stop_ids(tokenizer)
    assert found.finish_reason == "stop" and len(found.logprobs) == len(found.tokens)


def test_a_server_that_was_started_again_gets_the_weights_again(
    sampler: EndpointSampler, noise: Decoder, tokenizer: PreTrainedTokenizerFast, hosted: Running
) -> None:
    change(noise, 4)
    first = sampler.generate(PROMPTS, PARAMS, seed=3)
    facts = hosted.app.state.desk.entries["policy"]["luopan"]
    twin = hosted.app.state.desk.models["policy"].generator.model
    asked = sampler.line.ask_all
    lost: list[int] = []

    def forgetful(path: str, bodies: Any) -> Any:
        if not lost:
            lost.append(1)
            change(twin, 77)
            del facts["weights"]
        return asked(path, bodies)

    object.__setattr__(sampler.line, "ask_all", forgetful)
    again = sampler.generate(PROMPTS, PARAMS, seed=3)
    assert lost and [one.tokens for one in again] == [one.tokens for one in first]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"path": "/etc"}, 403, "below"),
        ({"path": "../.."}, 403, "below"),
        ({"path": "IN/nothing"}, 400, "path"),
        ({"path": "IN/wide"}, 400, "another shape"),
        ({"model": "nobody"}, 404, "policy"),
        ({"path": ""}, 400, "path"),
    ],
)
def test_what_it_refuses_to_load(
    hosted: Running, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, changes: Any, status: int, said: str
) -> None:
    if changes.get("path") == "IN/wide":
        hf.save(tiny_model(len(tokenizer), intermediate_size=64), tmp_path / "wide", architecture="auto")
    values = {"model": "policy", "path": str(tmp_path), "version": "1", **changes}
    values["path"] = values["path"].replace("IN", str(tmp_path))
    twin = hosted.app.state.desk.models["policy"].generator.model
    before = weights_hash(twin)
    response = hosted.http().post("/v1/reload", json=values)
    assert response.status_code == status and said in response.text and weights_hash(twin) == before


def test_it_needs_the_switch_and_the_key(noise: Decoder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    hf.save(noise, tmp_path / "m", architecture="auto")
    body = {"model": "policy", "path": str(tmp_path / "m"), "version": "1"}
    with running([served(noise, tokenizer, "policy")]) as server:
        assert server.http().post("/v1/reload", json=body).status_code == 404
    with running([served(noise, tokenizer, "policy")], reload_from=tmp_path, api_key="k") as server:
        assert server.http().post("/v1/reload", json=body).status_code == 401
        done = server.http(headers={"Authorization": "Bearer k"}).post("/v1/reload", json=body)
        assert done.json() == {"model": "policy", "weights": "1"}
    with running([served(noise, tokenizer, "a"), served(noise, tokenizer, "b")], reload_from=tmp_path) as server:
        refused = server.http().post("/v1/reload", json={**body, "model": "a"})
        assert refused.status_code == 400 and "shares its weights with b" in refused.text


def test_running_requests_are_waited_for(scripted: ScriptedModel, actor: ScriptedModel, tmp_path: Path) -> None:
    actor.says("the cat sat on a mat", "the")
    actor.step_seconds = 0.05
    with running([served(scripted, scripted.tokenizer, "actor")]) as server:
        body = {"model": "actor", "prompt": "the", "temperature": 0}
        thread = threading.Thread(target=lambda: server.http().post("/v1/completions", json=body))
        thread.start()
        worker = server.worker("actor")
        while not worker.inside:
            pass
        changed: list[int] = []
        # In a thread of its own, as the browser's tests leave a loop in this one.
        with ThreadPoolExecutor(1) as pool, pytest.raises(ApiError, match="running"):
            pool.submit(asyncio.run, worker.replace(lambda: changed.append(1))).result()
        thread.join(20)
        assert not changed


class Odd(Line):
    """A server whose answers a training cannot use."""

    def ask_all(self, path: str, bodies: Any) -> Any:
        return [odd["answer"] for _ in bodies]


odd: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"text": "x", "finish_reason": "stop"}, "lack token ids"),
        ({"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "length"}, "2 tokens and 1"),
        ({"token_ids": [3], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}, "no stop token"),
        ({"token_ids": [99], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "length"}, "does not have"),
    ],
)
def test_answers_that_cannot_be_learnt_from_are_refused(choice: dict[str, Any], said: str) -> None:
    odd["answer"] = {"choices": [choice]}
    with pytest.raises(ModelError, match=said):
        EndpointSampler(Odd("http://127.0.0.1:9"), "m", [1], 50).generate([[4]], PARAMS, seed=0)


def test_older_vllm_names_its_tokens_by_their_ids() -> None:
    logprobs = {"tokens": ["token_id:7", "token_id:1"], "token_logprobs": [-0.5, -1.5]}
    odd["answer"] = {"choices": [{"logprobs": logprobs, "finish_reason": "stop"}]}
    (found,) = EndpointSampler(Odd("http://127.0.0.1:9"), "m", [1], 50).generate([[4]], PARAMS, seed=0)
    assert (found.tokens, found.logprobs, found.finish_reason) == ([7, 1], [-0.5, -1.5], "stop")
    with pytest.raises(RecipeError, match="typical_p"):
        EndpointSampler(Odd("http://127.0.0.1:9"), "m", [1], 50).generate([[4]], SamplingParams(typical_p=0.5), seed=0)


def test_a_command_hands_weights_over_once(tmp_path: Path, noise: Decoder) -> None:
    log = tmp_path / "log"
    holder = Command(f"sh -c 'ls \"$0\" >> {log}; echo $1 >> {log}' {{path}} {{version}}")
    hand_over = HandOver(noise, lambda folder: hf.save(noise, folder, architecture="auto"), tmp_path / "w", holder)
    assert hand_over.bring() == hand_over.bring() == weights_hash(noise)
    lines = log.read_text().split()
    assert "model.safetensors" in lines and lines.count(weights_hash(noise)) == 1
    change(noise, 9)
    hand_over.bring()
    assert log.read_text().split()[-1] == weights_hash(noise) != lines[-1]
    for command, said in (("false {path}", "ended with 1"), ("no-such-program {path}", "No such file")):
        with pytest.raises(FeedUnavailable, match=said):
            Command(command).give(tmp_path, "1")
    for command in ("reload now", "", "a {path} {who}", "'"):
        with pytest.raises(RecipeError):
            Command(command)


def test_a_wrong_model_ends_at_once(hosted: Running) -> None:
    with pytest.raises(Refused, match="does not exist"):
        Reload(Line(f"{hosted.url}/v1"), "nobody").holds("1")
