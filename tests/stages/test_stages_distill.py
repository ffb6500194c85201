"""Distillation as a stage: from teachers of every kind, killed and cut off, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rl_stage_toys import model_artifact, rows_file
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact
from luopan.corpus.skills import generate_cases
from luopan.errors import FeedUnavailable, RecipeError
from luopan.model import hf
from luopan.recipe.distill_specs import DistillSpec
from luopan.report.data import StageReport
from luopan.rl import teacher_cache
from luopan.rl.log import read_log
from luopan.stages.common import save_model
from luopan.stages.distill import Distill
from luopan.stages.on_policy import PreciseEngine
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer
from luopan.train.tracking import read_metrics

sys.path.append(str(Path(__file__).parents[1] / "rl"))
from fake_endpoint import Endpoint, Reply, endpoint

COMMON: dict[str, Any] = {
    "kind": "distill", "model": "a", "teacher": "b", "tasks": [{"skill": "addition", "options": {"digits": [1]}}],
    "prompts": 12, "prompts_per_step": 4, "max_completion_length": 8, "max_length": 128, "temperature": 1.0,
    "learning_rate": 3e-3, "max_steps": 4, "test_cases": 4, "logging_steps": 1, "save_steps": 1,
}  # fmt: skip
ROWS: dict[str, Any] = {"data": [{"skill": "addition", "examples": 6, "options": {"digits": [1]}}], "lmbda": 0.5}


def spec(**changes: Any) -> DistillSpec:
    return DistillSpec(**{key: value for key, value in {**COMMON, **changes}.items() if value is not None})


def inputs(tmp_path: Path, **changes: Any) -> dict[str, tuple[Artifact, ...]]:
    found = {}
    for key, seed in (("model", 0), ("teacher", 1)):
        if not (tmp_path / key).exists():
            model_artifact(tmp_path / key, seed)
        found[key] = (Artifact(tmp_path / key),)
    if changes.get("teacher_endpoint"):
        del found["teacher"]
    return found


def ran(tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], StageReport]:
    torch.manual_seed(0)
    out = workspace(tmp_path / "out")
    metrics = Distill.run(spec(**changes), inputs(tmp_path, **changes), out)
    return metrics, StageReport.model_validate_json((out.path / "stage_report.json").read_text())


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in hf.load(folder / "model").parameters()])


def figure(report: StageReport, name: str) -> Any:
    (found,) = [one for one in report.figures if one.name == name]
    return found


def behind(folder: Path) -> Any:
    """An endpoint with the model of a folder, as vLLM answers."""
    model = hf.load(folder / "model").eval()

    def answer(body: dict[str, Any], number: int) -> Reply:
        ids = body["prompt"]
        with torch.no_grad():
            every = model(torch.tensor([ids]))[0].float().log_softmax(-1)
        told: list[Any] = [None]
        for place in range(1, len(ids)):
            row = every[place - 1]
            top = row.topk(body["prompt_logprobs"]).indices.tolist() if body["prompt_logprobs"] else []
            told.append({str(token): {"logprob": row[token].item()} for token in {*top, ids[place]}})
        return 200, {"choices": [{"prompt_logprobs": told}]}

    return answer


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 1.0},
        {"top_k": 16, "beta": 0.5},
        {"loss_type": "sampled_reverse_kl", "max_steps": 30, "prompts_per_step": 12},
        {**ROWS, "beta": 0.0},
        {**ROWS, "lmbda": 0.0, "top_k": 16},
    ],
    ids=["whole", "top k", "sampled", "half rows", "rows alone"],
)
def test_the_student_comes_closer_to_the_teacher(changes: dict[str, Any], tmp_path: Path) -> None:
    metrics, report = ran(tmp_path, **{"max_steps": 16, "save_steps": 16, "weight_decay": 0.0, **changes})
    found = figure(report, "divergence from the teacher")
    most = 0.95 if changes.get("lmbda") == 0 else 0.9  # other text than it is measured on
    assert found.after < most * found.before and metrics["before"]["divergence from the teacher"] == found.before
    assert figure(report, "the teacher itself, sampled").n == 4
    lines = read_metrics(tmp_path / "out")
    own = {0.5: 0.5, 0.0: 0.0}.get(changes.get("lmbda", 1.0), 1.0)
    assert {line["on_policy"] for line in lines} == {own}
    assert lines[-1]["loss"] != lines[0]["loss"]
    assert ("reward" in lines[0]) == (own > 0)


def test_answers_are_in_the_rollout_log(tmp_path: Path) -> None:
    ran(tmp_path, **ROWS)
    lines = list(read_log(tmp_path / "out" / "rollouts", 2))
    assert len(lines) == 2 and all(len(line["answers"]) == 1 for line in lines)


def test_prompts_of_a_chat_file_without_a_verifier(tmp_path: Path) -> None:
    talks = [[{"role": "user", "content": f"Say {n}"}] for n in range(12)]
    data = rows_file(tmp_path / "talks.jsonl", [{"prompt": talk} for talk in talks])
    _, report = ran(tmp_path, tasks=[{"data": data, "thinking": False}])
    assert figure(report, "divergence from the teacher").after is not None
    assert not any("accuracy" in one.name for one in report.figures)
    assert all("reward" not in line for line in read_metrics(tmp_path / "out"))


def test_a_verifier_that_fails_costs_no_run(tmp_path: Path) -> None:
    """Nothing is learnt from grades."""
    data = rows_file(tmp_path / "asked.jsonl", [{"prompt": f"Say {n}", "digits": "?"} for n in range(12)])
    task = {"data": data, "thinking": False, "verifier": "number", "args": {"answer": "{digits}"}}
    metrics, _ = ran(tmp_path, tasks=[task], max_steps=1)
    assert metrics["steps"] == 1
    assert read_metrics(tmp_path / "out")[0]["reward/verifier"] is None


def test_rows_are_asked_about_once_for_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = {**ROWS, "top_k": 8, "max_steps": 1}
    ran(tmp_path, **knobs)
    written: list[int] = []
    write = teacher_cache._write
    monkeypatch.setattr(teacher_cache, "_write", lambda *args: (written.append(args[1]), write(*args)))
    for name, more in (("again", {"learning_rate": 1e-4}), ("other", {"top_k": 9})):
        out = workspace(tmp_path / name)
        Distill.run(spec(**{**knobs, **more}), inputs(tmp_path), out)
        assert written == ([] if name == "again" else [0])


@pytest.mark.parametrize(
    "changes", [{"beta": 0.5, **ROWS}, {"top_k": 8, "steps_per_generation": 2}], ids=["rows", "top k"]
)
def test_killed_while_it_sampled_it_ends_with_the_same_bits(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(tmp_path / "alone", **changes)
    generate = PreciseEngine.generate

    def killed(engine: PreciseEngine, *args: Any, **more: Any) -> Any:
        done = generate(engine, *args, **more)
        if list((tmp_path / "killed" / "out" / "checkpoints").glob("step-*")):  # a later generation
            raise SystemExit
        return done

    with monkeypatch.context() as patched:
        patched.setattr(PreciseEngine, "generate", killed)
        with pytest.raises(SystemExit):
            ran(tmp_path / "killed", **changes)
    assert (tmp_path / "killed" / "out" / "checkpoints").exists()
    ran(tmp_path / "killed", **changes)
    assert torch.equal(weights(tmp_path / "alone" / "out"), weights(tmp_path / "killed" / "out"))


def test_an_endpoint_that_goes_away_is_waited_for_then_saved_and_gone_on_with(tmp_path: Path) -> None:
    inputs(tmp_path / "alone"), inputs(tmp_path / "cut")
    answer, asked = behind(tmp_path / "alone" / "teacher"), {"from": 10**9}

    def sometimes(body: dict[str, Any], number: int) -> Reply:
        return answer(body, number) if number < asked["from"] else (503, {"error": {"message": "overloaded"}})

    with endpoint(sometimes) as server:
        far = {"base_url": server.url, "model": "big", "patience": 0.2, "concurrency": 1}
        changes = {"teacher": None, "teacher_endpoint": far, "top_k": 8}
        ran(tmp_path / "alone", **changes)
        asked["from"] = (
            len(server.asked) + 1 + 4 + 4 + 4 + 2
        )  # probe, divergence, check of the ratio, a generation, half of one
        with pytest.raises(FeedUnavailable, match="overloaded"):
            ran(tmp_path / "cut", **changes)
        assert (tmp_path / "cut" / "out" / "checkpoints" / "step-000001").exists()
        asked["from"] = 10**9
        ran(tmp_path / "cut", **changes)
    assert torch.equal(weights(tmp_path / "alone" / "out"), weights(tmp_path / "cut" / "out"))


def test_an_endpoint_teaches_as_the_same_model_in_memory(tmp_path: Path) -> None:
    ran(tmp_path / "near", top_k=8)
    inputs(tmp_path / "far")
    with endpoint(behind(tmp_path / "far" / "teacher")) as server:
        far = {"base_url": server.url, "model": "big"}
        _, report = ran(tmp_path / "far", teacher=None, teacher_endpoint=far, top_k=8)
    one, other = (weights(tmp_path / place / "out") for place in ("near", "far"))
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)
    assert not any(found.name == "the teacher itself, sampled" for found in report.figures)


def test_a_teacher_with_another_vocabulary_is_refused_before_any_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tmp_path)
    chat = tiny_chat(2)
    texts = [message["content"] for case in generate_cases("talk", 80, 5) for message in case.conversation()]
    chat.tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=384, min_frequency=2))
    (tmp_path / "other").mkdir()
    save_model(chat, tmp_path / "other")
    manifest = (tmp_path / "teacher" / "manifest.json").read_text()
    (tmp_path / "other" / "manifest.json").write_text(manifest)
    monkeypatch.setattr(PreciseEngine, "generate", lambda *_, **__: pytest.fail("something was computed"))
    with pytest.raises(RecipeError, match=r"another vocabulary than sft: .* tokens and \d+; .* differs is token \d+"):
        Distill.run(spec(), {**given, "teacher": (Artifact(tmp_path / "other"),)}, workspace(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": None}, "exactly one of teacher and teacher_endpoint"),
        ({"teacher_endpoint": {"base_url": "http://x/v1", "model": "m"}}, "exactly one of teacher and"),
        ({"lmbda": 0.5}, "leaves room for rows: give data"),
        ({"data": ROWS["data"]}, "data has no effect with lmbda 1"),
        ({**ROWS, "lmbda": 0.1}, "is not one prompt"),
        ({"format_reward": 0.1}, "format_reward has no effect in a distill stage"),
        ({"truncation": "mask"}, "truncation has no effect"),
        ({"rest": "renormalise"}, "rest has no effect where the whole vocabulary"),
        ({"loss_type": "sampled_reverse_kl", "beta": 1.0}, "beta has no effect"),
        ({"loss_type": "sampled_reverse_kl", **ROWS}, "lmbda must be 1"),
        (
            {"teacher": None, "teacher_endpoint": {"base_url": "http://x/v1", "model": "m"}, "temperature": 0.7},
            "speaks at temperature 1",
        ),
        ({"beta": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_the_spec_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(**changes)


def test_what_servers_are_asked_for(tmp_path: Path) -> None:
    """Beside prompts and k nothing that a server would refuse."""
    inputs(tmp_path)
    with endpoint(behind(tmp_path / "teacher")) as server:
        found: Endpoint = server
        far = {"base_url": server.url, "model": "big"}
        ran(tmp_path, teacher=None, teacher_endpoint=far, max_steps=1)
        keys = {"model", "prompt", "max_tokens", "temperature", "prompt_logprobs"}
        assert all(set(body) == keys for body in found.asked)
        assert {body["prompt_logprobs"] for body in found.asked} == {0, 20}
