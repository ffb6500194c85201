"""The front door in a subprocess: help, exit codes, messages without tracebacks, and how long it takes to say so."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luopan.cli.main import VERBS, run_verb


def luopan(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "luopan.cli.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=120
    )


def test_help_names_every_verb_and_is_quick() -> None:
    done = luopan("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)

    def best(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    bare = best(sys.executable, "-c", "pass")
    assert best(sys.executable, "-m", "luopan.cli.main", "--help") - bare < 0.2


def test_help_in_a_terminal_that_knows_only_ascii() -> None:
    done = luopan("template", "render", "--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(verb, ["--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text and f"luopan {verb}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], 'there is no verb "rnu"; did you mean "run"?'),
        (["run"], "Missing argument"),
        (["run", "quikstart"], 'there is no shipped recipe "quikstart"'),
        (["run", "nowhere/r.yaml"], "no such file"),
        (["chat", "nowhere/at/all"], "no such model"),
        (["generate", ".", "--prompt", "x"], "no model in this folder"),
        (["generate", ".", "--prompt", "x", "--think"], "no effect without --chat"),
        (["recipes", "show", "nothing"], "there is no shipped recipe"),
        (["template", "render", "nowhere.jsonl", "--model", "nowhere"], "no such tokenizer"),
        (["report", "nowhere"], "no manifest.json here"),
        (["export", "nowhere", "--out", "x"], "no such model"),
    ],
)
def test_mistakes_get_one_message_and_2(
    arguments: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_verb(arguments[0], arguments[1:]) == 2
    text = capfd.readouterr().err
    assert message in text and "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_a_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    done = luopan("run", "nowhere.yaml", LUOPAN_TRACEBACK="1", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_recipes_are_listed_shown_and_copied(tmp_path: Path) -> None:
    listed = json.loads(luopan("recipes", "list", "--json").stdout)
    assert "quickstart" in [recipe["name"] for recipe in listed]
    text = luopan("recipes", "show", "quickstart").stdout
    copy = tmp_path / "mine.yaml"
    assert luopan("recipes", "copy", "quickstart", str(copy)).returncode == 0
    assert copy.read_text() == text
    again = luopan("recipes", "copy", "quickstart", str(copy))
    assert again.returncode == 2 and "not overwritten" in again.stderr


def test_a_misspelt_key_in_a_shipped_recipe(tmp_path: Path) -> None:
    path = tmp_path / "q.yaml"
    assert luopan("recipes", "copy", "quickstart", str(path)).returncode == 0
    lines = path.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "learning_rate:" in line)
    lines[number - 1] = lines[number - 1].replace("learning_rate", "lerning_rate")
    path.write_text("\n".join(lines))
    done = luopan("run", str(path), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert f"{path}:{number}: " in done.stderr and 'did you mean "learning_rate"?' in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs").exists()


def test_schema_is_json_and_the_table_has_every_kind(tmp_path: Path) -> None:
    schema = json.loads(luopan("schema").stdout)
    assert "stages" in schema["properties"]
    table = luopan("schema", "--markdown").stdout
    for kind in ("curate", "pretrain", "sft", "grpo"):
        assert f"## kind: {kind}\n" in table
    assert "`learning_rate` | number | required" in table


def test_every_shipped_recipe_is_valid() -> None:
    from luopan.recipe.load import load_recipe, shipped_recipes

    for name in shipped_recipes():
        assert load_recipe(name).recipe.name == name


def test_doctor_says_what_there_is(tmp_path: Path) -> None:
    done = luopan("doctor", "--json", "--runs", str(tmp_path))
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["problems"] else 0)
    assert found["python"] == sys.version.split()[0]
    assert found["cpu_flops"] > 1e8 and found["memory_bytes"] > 1e8 and found["cores"] > 0
    assert found["disk_write_bytes_per_second"] > 1e5
    assert "torch" in found["packages"] and not set(found["packages"]) & set(found["missing"])


def test_doctor_leaves_with_1_where_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("doctor", ["--runs", "/proc/nowhere"]) == 1
    assert "PROBLEM      /proc cannot be written to" in capsys.readouterr().out


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    import os

    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "luopan.cli.main", "--help"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
