"""The judge and the line of `luopan.rl` against our own server."""

from __future__ import annotations

import pytest
from serve_kit import CONTEXT, Running, ScriptedModel, running, served

from luopan.rl.judge import Judge, scale_of
from luopan.rl.line import Line, Refused
from luopan.rl.rewards import Answer, PartlyGraded
from luopan.rl.rollouts import Prompt

SHORT = "Grade {{ answer }}. Score: {{ scale }}"


def asked(text: str) -> Answer:
    return Answer(Prompt((1,), lambda text: None, question="city?"), text, (1,), "stop")


def test_our_server_judges(server: Running, actor: ScriptedModel) -> None:
    judge = Judge(Line(f"{server.url}/v1"), "actor", template=SHORT, max_tokens=16)
    actor.says("ok\nScore: 7", judge.request(asked("the cat"))["messages"])
    assert judge.score([asked("the cat")]) == [6 / 9]
    assert judge.costs.prompt_tokens > 5 and judge.costs.completion_tokens > 3
    yes = Judge(Line(f"{server.url}/v1"), "actor", template=SHORT, scale=scale_of("yes/no"), max_tokens=16)
    actor.says("Score: no", yes.request(asked("the dog"))["messages"])
    assert yes.score([asked("the dog")]) == [0.0]


def test_an_answer_beyond_the_judges_context_is_ungraded(server: Running, actor: ScriptedModel) -> None:
    judge = Judge(Line(f"{server.url}/v1"), "actor", template=SHORT, max_tokens=16)
    with pytest.raises(PartlyGraded, match="context") as caught:
        judge.score([asked("the cat " * CONTEXT)])
    assert caught.value.scores == [None] and judge.costs.refused == 1


def test_a_wrong_model_is_said_at_once(server: Running) -> None:
    with pytest.raises(Refused, match="there are: noise, actor, base"):
        Judge(Line(f"{server.url}/v1"), "nobody", template=SHORT).score([asked("x")])


def test_our_key_and_a_full_queue(scripted: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "right")
    scripted.says("the cat", "the")
    model = served(scripted, scripted.tokenizer, "actor")
    with running([model], api_key="right", max_batch=1, max_queue=1) as server:
        bodies = [{"model": "actor", "prompt": "the", "max_tokens": 4, "temperature": 0}] * 12
        line = Line(f"{server.url}/v1", api_key_env="JUDGE_KEY", concurrency=12, patience=30)
        answers = line.ask_all("completions", bodies)
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1 and len(answers) == 12
        monkeypatch.setenv("JUDGE_KEY", "wrong")
        with pytest.raises(Refused, match="JUDGE_KEY"):
            line.ask("completions", bodies[0])
