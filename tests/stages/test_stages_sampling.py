"""GRPO whose answers are sampled by a server: given the policy's weights, checked before the first update, resumed."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from stage_toys import tiny_chat, workspace

from luopan.errors import FeedUnavailable, RecipeError, TrainingError
from luopan.generate.text import TextGenerator
from luopan.pipeline.identity import without_lines
from luopan.recipe.specs import GrpoSpec
from luopan.rl.endpoint import EndpointSampler, weights_hash
from luopan.rl.log import read_log
from luopan.serve.app import create_app
from luopan.serve.config import ServeSettings
from luopan.serve.models import ServedModel
from luopan.serve.server import http_config
from luopan.stages.common import Chat
from luopan.stages.grpo import WAY, loss
from luopan.stages.ratio import assert_ratio_is_one
from luopan.stages.rewarded import check_rewarded, feed_of, set_up
from luopan.train.loop import fit
from luopan.train.progress import SilentProgress


@contextmanager
def serving(chat: Chat, root: Path) -> Iterator[str]:
    """Our server with a copy of the model; its address."""
    generator = TextGenerator(copy.deepcopy(chat.model).eval(), chat.tokenizer, max_batch=16)
    settings = ServeSettings(page=False, reload_from=root)
    server = uvicorn.Server(http_config(create_app([ServedModel("policy", generator)], settings)))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()


def spec(url: str, **changes: Any) -> GrpoSpec:
    values: dict[str, Any] = {
        "kind": "grpo", "model": "a", "tasks": [{"skill": "addition", "options": {"digits": [1]}}], "prompts": 12,
        "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 6, "max_length": 128,
        "temperature": 0.8, "learning_rate": 1e-2, "max_steps": 3, "resample_rounds": 0,
        "rewards": [{"kind": "check", "verifier": "length", "args": {"unit": "characters", "min": 14}}],
        "truncation": "keep",
        "sampler": {"kind": "endpoint", "base_url": url, "model": "policy", "patience": 0.3}, **changes,
    }  # fmt: skip
    return GrpoSpec(**values)


def trained(chat: Chat, url: str, folder: Path, **changes: Any) -> torch.Tensor:
    made, out = spec(url, **changes), workspace(folder)
    setup = set_up(made, {}, out, chat, WAY)
    feed = feed_of(setup, WAY)
    if not (folder / "checkpoints").exists():
        assert_ratio_is_one(chat, feed, made, out)
    fit(chat.model, feed, loss(setup), made, folder, device="cpu", seed=3, progress=SilentProgress())
    return torch.cat([parameter.detach().flatten() for parameter in chat.model.parameters()])


def sampled(folder: Path, step: int) -> list[Any]:
    return [answer["tokens"] for row in read_log(folder / "rollouts", step) for answer in row["answers"]]


def test_a_server_samples_each_step_with_the_weights_of_that_step(tmp_path: Path) -> None:
    with serving(tiny_chat(), tmp_path) as url:
        chat = tiny_chat(seed=5)  # the server was started with other weights
        first = trained(chat, url, tmp_path / "one")
        assert not torch.equal(first, trained(tiny_chat(seed=5), url, tmp_path / "never", max_steps=1))
        sampler = set_up(spec(url), {}, workspace(tmp_path / "two"), chat, WAY).engine
        assert isinstance(sampler, EndpointSampler) and sampler.hand_over is not None
        assert not sampler.hand_over.holder.holds(weights_hash(chat.model)), "the last weights sampled nothing yet"
        assert torch.equal(trained(tiny_chat(seed=5), url, tmp_path / "again"), first)
        lagging = trained(tiny_chat(seed=5), url, tmp_path / "lag", policy_lag=1, importance_cap=2.0)
        assert not torch.equal(lagging, first)
    assert [sampled(tmp_path / "again", step) for step in range(3)] == [sampled(tmp_path / "one", s) for s in range(3)]
    assert sampled(tmp_path / "one", 0) != sampled(tmp_path / "one", 2)
    assert sampled(tmp_path / "lag", 0) == sampled(tmp_path / "one", 0)
    assert sampled(tmp_path / "lag", 1) != sampled(tmp_path / "one", 1), "older weights sample something else"
    assert list((tmp_path / "one" / "rollouts" / "weights").iterdir()) == []


def test_a_server_that_goes_away_stops_the_run_which_then_goes_on(tmp_path: Path) -> None:
    with serving(tiny_chat(), tmp_path) as url:
        whole = trained(tiny_chat(seed=5), url, tmp_path / "whole")
        with pytest.MonkeyPatch.context() as patch:
            asked = EndpointSampler.generate

            def dying(self: EndpointSampler, *words: Any, **more: Any) -> Any:
                if (tmp_path / "cut" / "rollouts" / "step-000001.jsonl").exists():
                    raise FeedUnavailable("the server cannot be reached", hint="See that it runs.")
                return asked(self, *words, **more)

            patch.setattr(EndpointSampler, "generate", dying)
            with pytest.raises(FeedUnavailable, match="up to step 2 of 3 is saved"):
                trained(tiny_chat(seed=5), url, tmp_path / "cut")
    with serving(tiny_chat(seed=9), tmp_path) as elsewhere:
        assert elsewhere != url
        assert torch.equal(trained(tiny_chat(seed=5), elsewhere, tmp_path / "cut"), whole)


def test_a_server_with_other_probabilities_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = EndpointSampler.fields
    monkeypatch.setattr(
        EndpointSampler, "fields", lambda self, params: {**fields(self, params), "logit_bias": {"9": 9}}
    )
    with serving(tiny_chat(), tmp_path) as url, pytest.raises(TrainingError, match="processed_logprobs"):
        trained(tiny_chat(), url, tmp_path / "off")


def test_keys_that_cannot_work_are_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="no address"):
        check_rewarded(spec("here"))
    with pytest.raises(ValueError, match=r"write \{path\}"):
        spec("http://h/v1", sampler={"kind": "endpoint", "base_url": "http://h/v1", "model": "m", "command": "reload"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        set_up(spec("http://h/v1"), {}, workspace(tmp_path), tiny_chat(), WAY)


def test_another_engine_may_be_weighed_in_fp32_too() -> None:
    assert spec("http://h/v1", importance_cap=2.0, precision="fp32").importance_cap == 2.0
    with pytest.raises(ValueError, match="no effect"):
        spec("http://h/v1", importance_cap=2.0, precision="fp32", sampler={"kind": "engine"})


def test_where_a_server_is_does_not_change_what_a_stage_is() -> None:
    here, there = (json.loads(spec(f"http://{host}/v1").model_dump_json()) for host in ("a", "b"))
    assert here != there and without_lines(here) == without_lines(there)
    other = spec("http://a/v1", sampler={"kind": "endpoint", "base_url": "http://a/v1", "model": "another"})
    assert without_lines(json.loads(other.model_dump_json())) != without_lines(here)
