"""Completions, embeddings, models, health and metrics under the official client."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest
import torch
from serve_kit import Running, ScriptedModel

from luopan.generate.score import continuation_logprobs
from luopan.tokens.chat import encode_text


def test_prompts_as_text_and_as_tokens(client: openai.OpenAI, actor: ScriptedModel) -> None:
    ids = list(encode_text(actor.tokenizer, "the cat").input_ids[:-1])
    more: Any = {"model": "noise", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(prompt="the cat", **more).choices[0].text
    assert client.completions.create(prompt=ids, **more).choices[0].text == text
    several = client.completions.create(prompt=["the cat", "it ran away"], **more)
    assert [choice.index for choice in several.choices] == [0, 1] and several.choices[0].text == text
    assert client.completions.create(prompt=[ids, ids], **more).choices[1].text == text
    assert several.usage is not None and several.usage.prompt_tokens > len(ids)


def test_sixteen_tokens_where_nothing_is_said(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="noise", prompt="the", seed=1)
    assert answer.usage is not None and answer.usage.completion_tokens <= 16


def test_a_model_without_template_completes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="base", prompt="the cat", max_tokens=4)
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    more: Any = {"model": "noise", "prompt": ["the cat", "it"], "max_tokens": 20, "seed": 3, "n": 2}
    whole = client.completions.create(**more)
    said = [""] * 4
    for chunk in client.completions.create(**more, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert said == [choice.text for choice in whole.choices]
    assert chunk.usage == whole.usage and len(set(said)) == 4


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="noise", prompt="the cat", max_tokens=6, logprobs=3, seed=2)
    found = answer.choices[0].logprobs
    assert found is not None and found.tokens is not None and found.token_logprobs is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset or []) <= 6
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs or [], strict=True):
        assert top[token] == logprob and 3 <= len(top) <= 4
        assert max(top.values()) == sorted(top.values())[-1] and sum(map(math.exp, top.values())) <= 1.0001


def test_echo_gives_the_prompt_back(client: openai.OpenAI) -> None:
    more: Any = {"model": "noise", "prompt": "the cat", "max_tokens": 5, "temperature": 0}
    plain = client.completions.create(**more).choices[0].text
    assert client.completions.create(**more, echo=True).choices[0].text == "the cat" + plain
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**more, echo=True, stream=True))
    assert streamed == "the cat" + plain


def test_echo_scores_a_prompt_without_writing(client: openai.OpenAI, server: Running) -> None:
    answer = client.completions.create(
        model="noise", prompt="the cat sat on a mat", max_tokens=0, echo=True, logprobs=2
    )
    choice, generator = answer.choices[0], server.app.state.desk.models["noise"].generator
    assert choice.text == "the cat sat on a mat" and choice.finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 0
    ids = list(encode_text(generator.tokenizer, choice.text).input_ids[:-1])
    want = continuation_logprobs(generator.model, [ids], [1])[0]
    found = choice.logprobs
    assert found is not None and found.token_logprobs is not None and found.top_logprobs is not None
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None  # nothing comes before it
    assert found.token_logprobs[1:] == pytest.approx(want, abs=1e-4)
    assert "".join(found.tokens or []) == choice.text
    for token, logprob, top in zip(found.tokens[1:], want, found.top_logprobs[1:], strict=True):  # type: ignore[index]
        assert len(top) in (2, 3) and top[token] == pytest.approx(logprob, abs=1e-4)


def test_best_of_gives_the_likeliest(client: openai.OpenAI) -> None:
    more: Any = {
        "model": "noise",
        "prompt": "the cat",
        "max_tokens": 6,
        "seed": 4,
        "logprobs": 0,
        "extra_body": {"min_tokens": 6},
    }
    drawn = client.completions.create(**more, n=4).choices
    best = client.completions.create(**more, n=1, best_of=4)

    def likelihood(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    assert best.choices[0].text == max(drawn, key=likelihood).text and len(best.choices) == 1
    assert best.usage is not None and best.usage.completion_tokens > 6  # all four were written


def test_embeddings(client: openai.OpenAI, server: Running) -> None:
    found = client.embeddings.create(model="noise", input=["the cat", "the cat sat", "the cat"])
    vectors = torch.tensor([item.embedding for item in found.data])
    assert vectors.shape == (3, 32) and torch.equal(vectors[0], vectors[2])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    generator = server.app.state.desk.models["noise"].generator
    ids = torch.tensor([list(encode_text(generator.tokenizer, "the cat").input_ids[:-1])])
    with torch.inference_mode():
        want = torch.nn.functional.normalize(generator.model.hidden(ids)[0].mean(0), dim=0)
    assert torch.allclose(vectors[0], want, atol=1e-5)
    floats = client.embeddings.create(model="noise", input="the cat", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-6)
    assert found.usage.prompt_tokens > floats.usage.prompt_tokens


def test_models(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list().data}
    assert list(listed) == ["noise", "actor", "base"]
    facts: Any = listed["noise"].luopan  # type: ignore[attr-defined]
    assert facts["context"] == 640 and facts["thinking"] and facts["tools"] and facts["description"] == "random weights"
    assert not listed["base"].luopan["chat"]  # type: ignore[attr-defined]
    assert client.models.retrieve("noise").id == "noise"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_health_and_figures(server: Running, client: openai.OpenAI) -> None:
    client.completions.create(model="noise", prompt="the cat", max_tokens=5, temperature=0)
    with server.http() as http:
        health = http.get("/health").json()
        assert health["status"] == "ok" and health["models"] == ["noise", "actor", "base"]
        text = http.get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['luopan_generated_tokens_total{model="noise"}']) >= 5
    assert float(figures['luopan_prompt_tokens_total{model="noise"}']) > 0
    assert float(figures['luopan_requests_total{route="/v1/completions",status="200"}']) >= 1
    assert float(figures['luopan_time_to_first_token_seconds_count{model="noise"}']) >= 1
    assert float(figures['luopan_inter_token_seconds_count{model="noise"}']) >= 4
    assert figures['luopan_generations_running{model="noise"}'] == "0.0"


def test_a_prompts_tokens_are_told_by_number(client: openai.OpenAI, server: Running) -> None:
    """As vLLM tells them: what distillation from a teacher behind an endpoint reads."""
    model = server.app.state.desk.models["noise"].generator.model
    ids = [7, 30, 12, 7, 45]
    answer = client.completions.create(model="noise", prompt=ids, max_tokens=1, extra_body={"prompt_logprobs": 3})
    told = (answer.choices[0].model_extra or {})["prompt_logprobs"]
    with torch.no_grad():
        every = model(torch.tensor([ids])).float().log_softmax(-1)[0]
    assert told[0] is None and len(told) == len(ids)
    for place, entry in enumerate(told[1:], 1):
        values, likeliest = every[place - 1].topk(3)
        assert [int(key) for key, one in entry.items() if one["rank"]] == likeliest.tolist()
        assert [one["logprob"] for one in entry.values() if one["rank"]] == pytest.approx(values.tolist(), abs=1e-4)
        assert entry[str(ids[place])]["logprob"] == pytest.approx(every[place - 1, ids[place]].item(), abs=1e-4)
    plain = client.completions.create(model="noise", prompt=ids, max_tokens=1)
    assert "prompt_logprobs" not in (plain.choices[0].model_extra or {})


def test_a_prompts_tokens_are_not_streamed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        client.completions.create(model="noise", prompt="the", stream=True, extra_body={"prompt_logprobs": 3})
