"""The stage `synthesize`: over a fake server, over ours, over a model of the run; cut off and gone on with."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rl_stage_toys import model_artifact
from stage_toys import tiny_chat, workspace

from luopan.errors import DataError, FeedUnavailable, Interrupted
from luopan.pipeline.run import run
from luopan.recipe.parts import ChatSource, RowSource
from luopan.recipe.sampler_spec import EndpointSpec
from luopan.recipe.synth_specs import SynthesizeSpec
from luopan.report.data import StageReport
from luopan.stages.conversations import chat_data
from luopan.stages.preference_data import read_answers
from luopan.stages.synth_prompts import asked_in
from luopan.stages.synthesize import Synthesize, asker_of
from luopan.synth.config import Sampling
from luopan.synth.journal import Journal
from luopan.synth.speaker import Ask

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("rl", "serve", "synth"))
from fake_endpoint import endpoint
from serve_kit import running, served
from synth_toys import said, teacher

SEEDS = ["Name three rivers of Asia.", "Explain what a compass is for.", "Write a short letter to a friend."]


def spec(url: str, **changes: Any) -> SynthesizeSpec:
    server = {"base_url": url, "model": "strong", "patience": 0.2, "concurrency": 2}
    return SynthesizeSpec.model_validate({"kind": "synthesize", "teacher_endpoint": server, **changes})


def instructing(tmp_path: Path, **more: Any) -> dict[str, Any]:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"instruction": seed}) + "\n" for seed in SEEDS))
    keys = {"rows": 6, "per_request": 4, "requests_per_round": 2, "seeds": [{"path": str(seeds)}], **more}
    return {"kind": "self_instruct", **keys}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_written_reported_and_read_by_sft(tmp_path: Path) -> None:
    with endpoint(teacher) as server:
        config = spec(server.url, pipeline=instructing(tmp_path), sampling={"temperature": 0.9, "max_tokens": 50})
        Synthesize.check(config)
        out = workspace(tmp_path / "out")
        metrics = Synthesize.run(config, {}, out)
        first = server.asked[0]
        assert (first["model"], first["temperature"], first["max_tokens"]) == ("strong", 0.9, 50)
        assert "chat_template_kwargs" not in first
        asked = len(server.asked)
        again = Synthesize.run(config, {}, out)
        assert len(server.asked) == asked == metrics["calls"] and again["calls"] == 0 and again["remembered"] == asked
    assert metrics["rows"] == 6 == metrics["after"]["rows"]
    kept = rows(out.path / "rows.jsonl")
    assert len(kept) == 6 and kept[0]["provenance"]["models"] == ["strong"]
    assert len(rows(out.path / "rejected.jsonl")) == metrics["rejected"]
    report = StageReport.model_validate_json((out.path / "stage_report.json").read_text())
    checks, lengths, cost = report.tables
    assert [row[0] for row in checks.rows] == ["list", "length", "duplicate", "answered", "ended", "not empty"]
    assert [row[0] for row in lengths.rows] == ["user", "assistant"] and sum(row[2] for row in cost.rows) == asked
    assert report.samples and f"{asked} calls read {10 * asked} tokens" in report.summary
    source = ChatSource(path=str(out.path / "rows.jsonl"))
    data = chat_data(tiny_chat().tokenizer, [source], seed=0, max_length=512)
    assert len(data.examples) == 6 and not data.set_aside


def test_a_server_that_goes_away_costs_nothing_that_was_heard(tmp_path: Path) -> None:
    def dies(body: dict[str, Any], number: int) -> tuple[int, Any]:
        return teacher(body, number) if number < 4 else (503, {})

    out = workspace(tmp_path / "out")
    with endpoint(dies) as server, pytest.raises(FeedUnavailable):
        Synthesize.run(spec(server.url, pipeline=instructing(tmp_path)), {}, out)
    heard = len(rows(out.path / "replies.jsonl"))
    assert heard == 4 and not (out.path / "rows.jsonl").exists()
    with endpoint(teacher) as server:
        metrics = Synthesize.run(spec(server.url, pipeline=instructing(tmp_path)), {}, out)
        assert metrics["remembered"] == 4 and metrics["calls"] == len(server.asked)
    with endpoint(teacher) as server:
        Synthesize.run(spec(server.url, pipeline=instructing(tmp_path)), {}, whole := workspace(tmp_path / "whole"))
    there, here = (rows(place.path / "rows.jsonl") for place in (whole, out))
    assert [row["messages"] for row in there] == [row["messages"] for row in here]


def test_a_recipe_reads_what_an_earlier_stage_of_it_wrote(tmp_path: Path) -> None:
    made = tmp_path / "runs" / "chain" / "first" / "rows.jsonl"
    with endpoint(teacher) as server:
        stages = {
            "first": spec(server.url, pipeline=instructing(tmp_path, rows=3)),
            "second": spec(server.url, pipeline=instructing(tmp_path, rows=2, seeds=[{"path": str(made)}])),
        }
        recipe = {"name": "chain", "stages": {name: one.model_dump(exclude_unset=True) for name, one in stages.items()}}
        result = run(recipe, runs=tmp_path / "runs")
        assert [one.state for one in result.outcomes.values()] == ["made", "made"]
        firsts = [row["messages"][0]["content"] for row in rows(made)]
        assert any(all(one in body["messages"][0]["content"] for one in firsts) for body in server.asked)
        asked = len(server.asked)
        assert {one.state for one in run(recipe, runs=tmp_path / "runs").outcomes.values()} == {"done"}
        assert len(server.asked) == asked


def test_the_deadline_stops_it_between_batches(tmp_path: Path) -> None:
    out = workspace(tmp_path / "out")
    late = type(out)(out.path, out.name, out.seed, out.progress, stop_at=0.0)
    with endpoint(teacher) as server, pytest.raises(Interrupted) as caught:
        Synthesize.run(spec(server.url, pipeline=instructing(tmp_path)), {}, late)
    assert caught.value.exit_code != 130 and server.asked == []


def test_pairs_of_skills_graded_by_their_verifiers_are_read_by_preference(tmp_path: Path) -> None:
    def uneven(body: dict[str, Any], number: int) -> tuple[int, Any]:
        numbers = [
            int(word) for word in "".join(c if c.isdigit() else " " for c in body["messages"][-1]["content"]).split()
        ]
        return 200, said(str(sum(numbers) + body["seed"] % 2))

    task = {"skill": "addition", "options": {"digits": [1]}}
    pipeline = {"kind": "pairs", "tasks": [task], "prompts": 8, "grade": "verifier"}
    out = workspace(tmp_path / "out")
    with endpoint(uneven) as server:
        metrics = Synthesize.run(spec(server.url, pipeline=pipeline, dedup=None), {}, out)
    assert 0 < metrics["rows"] <= 8
    aside: list[tuple[str, str]] = []
    found = list(read_answers([RowSource(path=str(out.path / "rows.jsonl"))], aside, []))
    assert len(found) + len(aside) == metrics["rows"] and all("already" in reason for _, reason in aside)


def test_a_judge_grades_what_no_rule_can(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say something kind."}\n')

    def behave(body: dict[str, Any], number: int) -> tuple[int, Any]:
        asked = body["messages"][-1]["content"]
        if body["model"] == "judge":
            return 200, said(f"Well. Score: {9 if 'Bless' in asked else 2}")
        return 200, said("Bless you." if body["model"] == "strong" else "Go away.")

    with endpoint(behave) as server:
        pipeline = {
            "kind": "pairs", "tasks": [{"data": str(prompts)}], "grade": "judge", "samples": 1,
            "judge": {"kind": "judge", "base_url": server.url, "model": "judge"},
        }  # fmt: skip
        weak = {"base_url": server.url, "model": "weak"}
        out = workspace(tmp_path / "out")
        Synthesize.run(spec(server.url, pipeline=pipeline, weak_endpoint=weak), {}, out)
    (row,) = rows(out.path / "rows.jsonl")
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Bless you.", "Go away.")
    report = StageReport.model_validate_json((out.path / "stage_report.json").read_text())
    assert "The judge judge was asked 2 times" in report.notes[0].text
    assert row["grades"]["chosen"] == pytest.approx(8 / 9) and row["provenance"]["models"] == ["strong", "weak"]


def test_checked_conversations_are_read_by_sft_in_both_modes(tmp_path: Path) -> None:
    firsts = tmp_path / "firsts.jsonl"
    own = {
        "prompt": "Name a river. No commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{"n": None}],
    }
    odd = {"prompt": "Name a lake.", "instruction_id_list": ["no:such"], "kwargs": [{}]}
    firsts.write_text("".join(json.dumps(row) + "\n" for row in (own, odd)))

    def behave(body: dict[str, Any], number: int) -> tuple[int, Any]:
        if "numbered list" in body["messages"][-1]["content"]:
            return 200, said("1. And a hill?")
        thought = {"reasoning_content": "Let me see."} if body["chat_template_kwargs"]["enable_thinking"] else {}
        return 200, said("The Yangtze", **thought)

    pipeline = {"kind": "ifthink", "rows": 1, "turns": 2, "data": [{"path": str(firsts)}]}
    kept: list[dict[str, Any]] = []
    for seed in range(40):  # until the second turn's instruction is one that the toy follows
        out = workspace(tmp_path / f"out{seed}", seed)
        with endpoint(behave) as server, suppress(DataError):
            Synthesize.check(config := spec(server.url, pipeline=pipeline))
            metrics = Synthesize.run(config, {}, out)
            kept = rows(out.path / "rows.jsonl")
            break
    assert len(kept) == 1 == metrics["rows"]
    data = chat_data(tiny_chat().tokenizer, [ChatSource(path=str(out.path / "rows.jsonl"))], seed=0, max_length=512)
    assert len(data.examples) == 1 and not data.set_aside
    text = tiny_chat().tokenizer.decode([at for at in data.examples[0].labels if at >= 0])
    assert text.count("Yangtze") == 2 and text.count("Let me see.") == 1


def test_our_own_server_and_a_model_of_the_run_say_the_same(tmp_path: Path) -> None:
    model = model_artifact(tmp_path / "model", 0)
    chat = tiny_chat(0)
    asks = [
        Ask(({"role": "user", "content": f"{n} + {n}?"},), n, Sampling(max_tokens=12, temperature=1.0, top_p=1.0), "x")
        for n in range(5)
    ]
    long = Ask(({"role": "user", "content": "one word after another " * 60},), 0, asks[0].sampling, "x")
    out = workspace(tmp_path / "out")
    local = asker_of(None, (model,), Journal(tmp_path / "local"), out)
    with running([served(chat.model, chat.tokenizer, "sft")]) as server:
        line = EndpointSpec(base_url=f"{server.url}/v1", model="sft")
        remote = asker_of(line, (), Journal(tmp_path / "remote"), out)
        assert local is not None and remote is not None
        here, there = local.ask([*asks, long]), remote.ask([*asks, long])
    assert [one.text for one in here] == [one.text for one in there] and len({one.text for one in here[:5]}) == 5
    assert all(one.reply.completion_tokens and not one.reply.fault for one in (*here[:5], *there[:5]))
    assert here[5].reply.fault and there[5].reply.fault  # too long, for that one alone
    alone = asker_of(None, (model,), Journal(tmp_path / "alone"), out)
    assert alone is not None and alone.ask(asks[3:4])[0].text == here[3].text  # whoever else is in the batch


def test_nothing_that_stands_up_is_an_error_that_says_why(tmp_path: Path) -> None:
    out = workspace(tmp_path / "out")
    with (
        endpoint(lambda body, number: (200, said("I would rather not."))) as server,
        pytest.raises(DataError, match="rejected by list: no numbered list"),
    ):
        Synthesize.run(spec(server.url, pipeline=instructing(tmp_path)), {}, out)
    assert (out.path / "replies.jsonl").is_file() and rows(out.path / "rejected.jsonl")


@pytest.mark.parametrize(
    ("changes", "said_of_it"),
    [
        ({"teacher": "a"}, "exactly one of teacher"),
        ({"weak": "a"}, "no effect in the pipeline self_instruct"),
        ({"pipeline": {"kind": "pairs", "tasks": [{"skill": "addition"}]}}, "need a weak model, or a grade"),
        ({"pipeline": {"kind": "pairs", "tasks": [{"skill": "addition"}], "grade": "judge"}}, "needs judge"),
        ({"pipeline": {"kind": "pairs", "tasks": [{"data": "x"}], "grade": "verifier"}}, "x has no verifier"),
        (
            {"pipeline": {"kind": "pairs", "tasks": [{"skill": "addition"}], "min_margin": 0.1}},
            "no effect without grade",
        ),
        (
            {"pipeline": {"kind": "pairs", "tasks": [{"skill": "addition"}], "grade": "verifier", "samples": 1}},
            "samples 1 makes no pair",
        ),
    ],
)
def test_what_has_no_effect_is_refused(tmp_path: Path, changes: dict[str, Any], said_of_it: str) -> None:
    with pytest.raises(ValidationError, match=said_of_it):
        spec("http://127.0.0.1:9/v1", **{"pipeline": instructing(tmp_path), **changes})


def test_questions_are_found_in_the_usual_columns() -> None:
    assert asked_in({"instruction": "Add.", "input": "1 and 2"}) == "Add.\n\n1 and 2"
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": " q "}]
    assert asked_in({"messages": talk}) == asked_in({"prompt": talk}) == "q"
    assert asked_in({"conversations": [{"from": "human", "value": "q"}]}) == "q"
    assert asked_in({"prompt": "  ", "answer": "x"}) is None
