"""Paging through the rollout log, on the command line and for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luopan.cli.main import run_verb
from luopan.errors import ArtifactError, RecipeError
from luopan.rl.browse import Wanted, find_logs, printable, prompt_of, search, step_of, summary, thinned
from luopan.rl.log import write_log
from luopan.rl.rollouts import Group, Prompt, Rollout
from luopan.rl.samples import rollout_samples


def rollout(text: str, reward: float | None, length: int = 3, reason: str = "stop") -> Rollout:
    parts = {"verifier": reward, "format": 1.0}
    return Rollout(tuple(range(length)), (-0.5,) * length, text, reason, reward, parts)


def record(step: int, question: str, rollouts: list[Rollout], task: str = "sums", round_: int = 0) -> dict[str, Any]:
    prompt = Prompt((1, 2), lambda text: None, name=task, question=question, answer="4", thinking=True)
    signs = tuple(0.0 if one.reward is None else one.reward - 0.5 for one in rollouts)
    return {**Group(prompt, tuple(rollouts), signs).record(step), "round": round_}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 0, 4 and 8 of `grpo`."""
    folder = tmp_path / "mine" / "grpo" / "rollouts"
    for step in (0, 4, 8):
        lines = [
            record(step, "What is 2 + 2?", [rollout("<think>two</think>4", 1.0), rollout("\x1b[31m5", 0.0, 9)]),
            record(step, "Spell [bold]cat", [rollout("c-a-t", 1.0), rollout("k", None, 2, "length")], "letters"),
            record(step, "What is 1 + 1?", [rollout("2", 0.0), rollout("2 it is", 0.0, step + 5)]),
            record(step, "What is 3 + 3?", [rollout("6", 1.0), rollout("six", 0.0)], round_=1),
        ]
        write_log(folder, step, lines)
    return tmp_path / "mine"


def shown(run: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_verb("rollouts", [str(run), *words]) == 0
    return capsys.readouterr().out


def test_a_step_in_figures(run: Path) -> None:
    (log,) = find_logs(run)
    found = summary(log, 4)
    assert (log.stage, log.steps) == ("grpo", (0, 4, 8))
    assert (found.prompts, found.answers, found.replaced, found.dead_groups, found.ungraded) == (3, 6, 1, 2, 1)
    assert found.reward == pytest.approx(2 / 5) and found.parts == {"verifier": pytest.approx(0.4), "format": 1.0}
    assert found.length == pytest.approx((3 + 9 + 3 + 2 + 3 + 9) / 6) and found.stop_rate == pytest.approx(5 / 6)


def test_prompts_are_found_and_sorted(run: Path) -> None:
    (log,) = find_logs(run)

    def found(**wanted: Any) -> list[tuple[int, int]]:
        return [(row.step, row.number) for row in search(log, log.steps, Wanted(**wanted))]

    assert found(task="letters") == found(ungraded=True) == found(grep="k$") == [(0, 2), (4, 2), (8, 2)]
    assert found(grep="is [23] ")[:2] == [(0, 1), (0, 4)] and found(grep="nowhere") == []
    assert found(sort="reward", task="sums")[-3:] == [(0, 3), (4, 3), (8, 3)]
    assert found(sort="-reward")[:3] == [(0, 3), (4, 3), (8, 3)]
    assert found(sort="length")[0] == (8, 3) and found(sort="advantage")[0] == (0, 1)
    for wrong, said in (({"sort": "size"}, "size"), ({"grep": "("}, "expression"), ({"task": "chess"}, "letters")):
        with pytest.raises(RecipeError, match=said):
            found(**wrong)


def test_the_table_of_steps(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(run, capsys=capsys).splitlines()
    assert lines[0].split() == [*["step", "prompts", "answers", "reward", "verifier", "format"],
                                *["tokens", "stops", "dead", "replaced", "ungraded"]]  # fmt: skip
    assert lines[1].split() == ["0", "3", "6", "0.4", "0.4", "1", "4.2", "83%", "2", "1", "1"] and len(lines) == 4
    same = shown(run / "grpo", "--json", capsys=capsys)
    assert [one["step"] for one in json.loads(same)["grpo"]] == [0, 4, 8]


def test_pages_of_prompts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run, "--step", "last", capsys=capsys)
    assert "Spell [bold]cat" in text and "page 1 of 1, 4 prompts" in text and "\x1b" not in text
    text = shown(run, "--sort=-reward", "--per-page", "5", "--page", "3", capsys=capsys)
    assert "page 3 of 3, 12 prompts" in text and "next" not in text
    assert "there are 3 pages" in shown(run, "--sort=reward", "--per-page", "5", "--page", "4", capsys=capsys)
    assert "nothing to show" in shown(run, "--grep", "nowhere", capsys=capsys)
    rows = json.loads(shown(run, "--ungraded", "--json", capsys=capsys))
    assert [(row["step"], row["prompt"]) for row in rows] == [(0, 2), (4, 2), (8, 2)] and rows[0]["answers"]


def test_one_prompt_with_its_answers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run, "--step", "4", "--prompt", "1", capsys=capsys)
    assert "step 4, prompt 1, task sums, thinking, policy 4" in text and "expected: 4" in text
    assert "1. reward 1, verifier 1, format 1, advantage +0.5, 3 tokens" in text
    assert "<think>two</think>4" in text and "\x1b" not in text and "\N{REPLACEMENT CHARACTER}[31m5" in text
    text = shown(run, "--step", "4", "--prompt", "2", capsys=capsys)
    assert "2. not graded, verifier –, format 1, advantage +0, 2 tokens, did not stop" in text
    raw = json.loads(shown(run, "--step", "4", "--prompt", "4", "--json", capsys=capsys))
    assert raw["round"] == 1 and raw["answers"][0]["logprobs"] == [-0.5] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "5"], "Near it are 0, 4, 8"),
        (["--step", "x"], "no step"),
        (["--stage", "sft"], "those of: grpo"),
        (["--step", "4", "--prompt", "9"], "1 to 4"),
        (["--prompt", "1"], "--step"),
        (["--sort", "size"], "reward, length, advantage"),
        (["--grep", "("], "expression"),
        (["--task", "chess"], "letters, sums"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run_verb("rollouts", [str(run), *words]) == 2
    out = capsys.readouterr()
    assert said in out.err and out.out == "" and "Traceback" not in out.err


def test_runs_without_a_sound_log(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("rollouts", [str(tmp_path / "none")]) == 2 and "no such run" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_verb("rollouts", [str(tmp_path / "empty")]) == 2 and "no rollouts" in capsys.readouterr().err
    file = run / "grpo" / "rollouts" / "step-000004.jsonl"
    for broken in ('{"half": ', '{"answers": [{}]}', "[1]", '{"answers": 7}'):
        file.write_text(broken + "\n")
        with pytest.raises(ArtifactError, match=r"step-000004\.jsonl:1"):
            summary(find_logs(run)[0], 4)


def test_a_stage_that_is_still_made_and_a_second_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "grpo").rename(run / "grpo.partial")
    write_log(run / "ppo" / "rollouts", 0, [record(0, "Q", [rollout("a", 1.0)])])
    assert [log.stage for log in find_logs(run)] == ["grpo", "ppo"]
    assert find_logs(run / "grpo.partial")[0].stage == "grpo"
    text = shown(run, capsys=capsys)
    assert "grpo" in text and "ppo" in text
    assert run_verb("rollouts", [str(run), "--step", "0"]) == 2 and "--stage: grpo, ppo" in capsys.readouterr().err
    assert "page 1 of 1, 1 prompt;" in shown(run, "--stage", "ppo", "--step", "0", capsys=capsys)


def test_of_many_steps_a_few(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert thinned(range(100), 5) == [0, 25, 50, 74, 99] and thinned([3, 1], 5) == [3, 1]
    monkeypatch.setattr("luopan.cli.rollouts_verb.MOST_STEPS", 2)
    text = shown(run, capsys=capsys)
    assert "2 of 3 steps" in text and [line.split()[0] for line in text.splitlines()[1:3]] == ["0", "8"]
    (log,) = find_logs(run)
    assert step_of(log, "first") == 0 and step_of(log, "last") == 8 and prompt_of(log, 0, 4).number == 4
    assert printable("a\tb\nc\x07\x1b[2J") == "a\tb\nc\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J"


def test_rollouts_for_the_report(run: Path, tmp_path: Path) -> None:
    found = rollout_samples(run / "grpo" / "rollouts")
    assert [one.title for one in found] == [
        "step 0: sums", "step 4: sums", "step 8: sums", "step 0, not graded: letters",
        "step 8, the longest with 13 tokens: sums",
    ]  # fmt: skip
    first = found[0]
    assert first.messages[0].content == "What is 2 + 2?" and first.expected == "4" and first.thinking
    assert list(first.answers) == ["best, reward 1", "worst, reward 0"]
    best, worst = first.answers.values()
    assert (best.thinking, best.text, best.correct) == ("two", "4", True)
    assert (worst.correct, worst.tokens) == (False, 9)
    lost = found[3].answers["not graded"]
    assert lost.correct is None and lost.finish_reason == "length"
    assert rollout_samples(tmp_path) == []
    single = tmp_path / "one"
    write_log(single, 7, [record(7, "Q", [rollout("a", 1.0), rollout("b", 1.0)])])
    assert [list(one.answers) for one in rollout_samples(single)] == [["best, reward 1"], ["reward 1"]]
