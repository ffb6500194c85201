"""`luopan eval` on tasks: names, models side by side, a server, the harness; what is printed and left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from luopan.cli.main import run_verb
from luopan.errors import DataError, ModelError, RecipeError
from luopan.evals.tasks.figures import Figure, Result
from luopan.generate.config import SamplingParams
from luopan.lab.evaluation.endpoint import body, endpoint_writer, read
from luopan.lab.evaluation.harness import params_of, result_of
from luopan.lab.evaluation.names import Asked, read_names
from luopan.lab.evaluation.run import Evaluated, Settings, differences, plan, table, to_json
from luopan.rl.line import Refused

sys.path.append(str(Path(__file__).parents[1] / "rl"))
from fake_endpoint import endpoint

TASK = """\
kind: choice
data: {path: rows.jsonl}
prompt: "{{ q }}"
choices: "{{ c }}"
answer: "{{ a }}"
"""
WRITTEN = """\
kind: generate
data: {path: rows.jsonl}
prompt: "{{ q }}"
chat: true
max_new_tokens: 8
checks:
  right: {verifier: exact, args: {answer: "{{ c[a] }}"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"q": "The quick", "c": ["fox", "brown dog"], "a": 1}, {"q": "A model", "c": ["one", "two"], "a": 0}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(TASK)
    (tmp_path / "said.yaml").write_text(WRITTEN)
    (tmp_path / "all.yaml").write_text("tasks: [mine.yaml, said.yaml, piqa]\n")
    return tmp_path


def test_names_are_skills_tasks_suites_files_and_the_harness(folder: Path) -> None:
    asked = read_names(["addition", "arc_easy", "chat", str(folder / "mine.yaml"), "lm_eval:piqa", "arc_easy"])
    told = ("arc_easy", "gsm8k_chat", "ifeval", "humaneval_chat", str(folder / "mine.yaml"))
    assert asked == Asked(("addition",), told, ("piqa",))
    listed = read_names([str(folder / "all.yaml")]).tasks
    assert listed == (str(folder / "mine.yaml"), str(folder / "said.yaml"), "piqa")
    with pytest.raises(RecipeError, match='unknown task "arc_esay"; did you mean "arc_easy"'):
        read_names(["arc_esay"])
    (folder / "all.yaml").write_text("tasks: [pica]\n")
    with pytest.raises(RecipeError, match='did you mean "piqa"'):
        read_names([str(folder / "all.yaml")])


def test_settings_change_what_is_written_and_nothing_else(folder: Path) -> None:
    names = [str(folder / "mine.yaml"), str(folder / "said.yaml")]
    choice, said = plan(names, Settings(limit=1, chat=False, max_new_tokens=3))
    assert len(choice.rows) == len(said.rows) == 1
    assert (said.task.chat, said.task.max_new_tokens) == (False, 3)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="no effect without chat"):
        plan(names, Settings(chat=False, thinking=True))
    with pytest.raises(RecipeError, match="two tasks are called 'mine'"):
        plan([names[0], names[0]], Settings())


def evaluated(model: str, *scores: float, identity: str = "r") -> Evaluated:
    other = Figure(tuple(reversed(scores)))
    return Evaluated(model, [Result("t", "acc", {"acc": Figure(scores, chance=0.5), "x": other}, identity=identity)])


def test_models_are_compared_with_the_first_row_by_row() -> None:
    found = [evaluated("a", 1, 0, 1, 0), evaluated("b", 1, 1, 1, 0), evaluated("c", 1, 1, 1, 1, identity="others")]
    ((name, apart),) = differences(found)[0].values()
    assert (name, apart.value, apart.n) == ("acc", 0.25, 4) and apart.stderr == pytest.approx(0.25)
    assert differences(found)[1] == {}  # other rows
    titles, rows = table(found)
    one_more = ["±", "difference", "±"]
    assert titles == ["task", "figure", "n", "chance", "a", "±", "b", *one_more, "c", *one_more]
    assert rows[0][:2] == ["t", "acc"] and rows[1][:2] == ["", "x"]
    assert rows[0][2:10] == ["4", "0.5", "0.5", "0.289", "0.75", "0.25", "+0.25", "0.25"] and rows[0][12:] == ["", ""]
    left = to_json(found)
    assert left["differences"][0]["tasks"]["t"]["difference"] == 0.25 and left["models"][0]["model"] == "a"


def test_eval_prints_and_leaves_the_figures(run_folder: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sft, mine, said = str(run_folder / "sft"), str(folder / "mine.yaml"), str(folder / "said.yaml")
    assert run_verb("eval", [sft, sft, "--tasks", f"{mine},{said}", "--out", str(folder / "o"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "o" / "results.json").read_text())
    first, second = (one["tasks"] for one in told["models"])
    assert first == second and first[0]["figures"]["acc"]["chance"] == 0.5 and first[0]["figures"]["acc"]["n"] == 2
    assert told["differences"][0]["tasks"]["mine"]["difference"] == 0
    rows = [json.loads(line) for line in (folder / "o" / "rows" / "2-said.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == [0, 1] and rows[0]["prompt"][0]["content"] == "The quick"
    assert run_verb("eval", [sft, "--tasks", mine, "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "acc_norm" in printed and "chance" in printed and "difference" not in printed


def test_a_wrong_name_is_exit_code_2_and_the_list_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("eval", ["nowhere", "--tasks", "gsm8"]) == 2
    assert 'unknown task "gsm8"; did you mean "gsm8k"?' in capsys.readouterr().err
    assert run_verb("eval", ["nowhere", "--tasks", "addition", "--limit", "3"]) == 2
    assert "--limit" in capsys.readouterr().err
    assert run_verb("eval", ["nowhere", "--tasks", "list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "addition" in printed and any(line.startswith("early-signal  ") for line in printed)


def chat_reply(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


def test_a_server_is_asked_what_it_can_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def behave(asked: dict[str, Any], number: int) -> tuple[int, Any]:
        if asked["messages"][0]["content"] == "A model":
            return 400, {"error": {"message": "too long"}}
        return 200, chat_reply("<think>a fox? no</think>\nbrown dog")

    with endpoint(behave) as server:
        model = f"{server.url}#tiny"
        assert run_verb("eval", [model, "--tasks", str(folder / "said.yaml"), "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)["models"][0]["tasks"]
        assert told["figures"]["right"]["value"] == 0.5 and told["notes"]["prompts too long"] == 1
        assert {one["model"] for one in server.asked} == {"tiny"} and server.paths[0].endswith("/v1/chat/completions")
        assert run_verb("eval", [model, "--tasks", str(folder / "mine.yaml")]) == 2
        assert "needs log-probabilities" in capsys.readouterr().err
    with pytest.raises(ModelError, match="name is missing"):
        endpoint_writer("http://127.0.0.1:1/v1")


def test_requests_and_answers_of_a_server() -> None:
    drawn = SamplingParams(max_new_tokens=5, temperature=0.5, stop=("x",), seed=1)
    first, second = body("m", "p", drawn, False, 0), body("m", "p", drawn, False, 1)
    assert first["prompt"] == "p" and first["max_tokens"] == 5 and first["stop"] == ["x"]
    assert first["seed"] != second["seed"] and "chat_template_kwargs" not in first
    assert read({"choices": [{"text": "so", "finish_reason": "length"}]}).text == "so"
    thought = read(chat_reply("4", reasoning_content="2+2"))
    assert (thought.text, thought.thinking, thought.tokens) == ("4", "2+2", 3)
    with pytest.raises(Refused):
        read(Refused("busy", status=422))
    with pytest.raises(ModelError, match="not one of the OpenAI API"):
        read({"choices": []})


def test_what_the_harness_says_becomes_figures_by_row() -> None:
    samples = [{"doc_id": at, "acc": value, "filter": "none", "ppl": -value} for at, value in ((1, 0.0), (0, 1.0))]
    told = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.5, "ppl,none": 3.0}
    result = result_of("x", told, samples)
    assert result.figures["acc"].scores == (1.0, 0.0) and result.main == "acc" and result.notes == {"ppl": 3.0}
    with pytest.raises(DataError, match="no figure"):
        result_of("x", {"ppl,none": 3.0}, samples)


def test_the_harness_arguments_become_sampling() -> None:
    params = params_of({"until": ["Q:", ""], "do_sample": False, "temperature": 0.0})
    assert (params.stop, params.temperature, params.max_new_tokens) == (("Q:",), 0.0, 256)
    drawn = params_of({"until": "x", "do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 4})
    assert (drawn.stop, drawn.temperature, drawn.top_p, drawn.max_new_tokens) == (("x",), 0.7, 0.9, 4)
