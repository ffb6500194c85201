"""The whole way through the command line: a newcomer's run, a second one, a changed setting, a mistake."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("smoke")]

STAGES = ("curate", "tokenizer", "pretrain", "midtrain", "sft", "preference", "grpo", "eval", "report")


def manifest(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "manifest.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_figures_before_and_after(smoke: Path, stage: str) -> None:
    metrics = manifest(smoke, stage)["metrics"]
    assert set(metrics["before"]) == set(metrics["after"]) != set()
    assert not list(smoke.glob("*.partial"))


def test_a_second_run_does_nothing_and_says_so(smoke: Path, luopan) -> None:
    def written() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in smoke.rglob("*") if p.is_file() and p.name != ".lock"}

    before = written()
    out = luopan("run", "smoke", "--runs", str(smoke.parent)).stdout
    assert written() == before
    assert all(re.search(rf"{stage}: .*(done|nothing)", out) for stage in STAGES), out


def test_a_changed_setting_redoes_that_stage_and_what_follows_only(smoke: Path, luopan, tmp_path: Path) -> None:
    shutil.copytree(smoke, tmp_path / "smoke")
    before = {stage: manifest(smoke, stage) for stage in STAGES}
    out = luopan("run", "smoke", "--runs", str(tmp_path), "preference.beta=0.2").stdout
    after = {stage: manifest(tmp_path / "smoke", stage) for stage in STAGES}
    changed = {stage for stage in STAGES if after[stage]["created"] != before[stage]["created"]}
    assert changed <= {"preference", "grpo", "eval", "report"}
    assert {stage for stage in STAGES if after[stage]["identity"] != before[stage]["identity"]} == {
        "preference",
        "grpo",
        "eval",
        "report",
    }
    assert "beta" in out


def test_the_model_is_the_same_in_transformers(smoke: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import luopan

    folder = smoke / "grpo" / "model"
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Who are you?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ours, _ = luopan.load(str(smoke / "grpo"))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids["input_ids"]), theirs(**ids).logits, atol=1e-4, rtol=0)
    generated = theirs.generate(**ids, max_new_tokens=8, do_sample=False)
    assert generated.shape[1] > ids["input_ids"].shape[1]


def test_the_report_is_one_closed_page_with_every_stage(smoke: Path) -> None:
    page = (smoke / "report.html").read_text()
    assert page == (smoke / "report" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']https?://""", page) and "<script" not in page
    for stage in STAGES[:-1]:
        assert re.search(rf">\s*{stage}\b", page), stage
    for figure in ("bits per byte", "loss beyond 128 tokens", "stop rate", "win rate over its input"):
        assert figure in page, figure


def test_curves_mixtures_and_rollouts_are_kept(smoke: Path) -> None:
    steps = [json.loads(line)["step"] for line in (smoke / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 40
    lines = [json.loads(line) for line in (smoke / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward", "completion_length", "dead_groups"} <= set(lines[-1])
    rollouts = sorted((smoke / "grpo" / "rollouts").glob("*.jsonl"))
    assert len(rollouts) == 4
    assert len(json.loads(rollouts[0].read_text().splitlines()[0])["answers"]) == 4
    assert "⟦" in (smoke / "sft" / "samples.md").read_text()


def test_lineage_leads_from_the_last_model_to_the_data(smoke: Path) -> None:
    from luopan.pipeline.lineage import lineage

    kinds = [step.kind for step in lineage(smoke / "grpo" / "model")]
    assert kinds == ["curate", "tokenizer", "pretrain", "midtrain", "sft", "preference", "grpo"]
    assert manifest(smoke, "grpo")["versions"]["torch"] == torch.__version__


def test_chat_answers_and_keeps_a_transcript(smoke: Path, luopan, tmp_path: Path) -> None:
    said = (
        f"/help\nHello!\n/think on\n/system You are a pirate.\nHello!\n/save {tmp_path / 'talk.json'}\n/reset\n/quit\n"
    )
    out = luopan("chat", str(smoke / "grpo"), stdin=said).stdout
    assert "/system" in out and (tmp_path / "talk.json").is_file()


def test_generate_and_eval_speak_json(smoke: Path, luopan) -> None:
    out = json.loads(
        luopan("generate", str(smoke / "sft"), "--prompt", "Hello!", "--max-new-tokens", "5", "--json").stdout
    )
    assert out
    scores = json.loads(luopan("eval", str(smoke / "sft"), "--tasks", "addition", "--cases", "4", "--json").stdout)
    assert "addition" in json.dumps(scores)
