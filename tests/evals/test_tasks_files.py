"""Task files: what they may say, what their templates make of rows, where rows come from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest
import zstandard

from luopan.corpus.skills import skill_names
from luopan.errors import DataError
from luopan.evals.tasks.config import ChoiceTask, Data, GenerateTask
from luopan.evals.tasks.rows import read_rows, value_of
from luopan.evals.tasks.scored import choices_of
from luopan.evals.tasks.shipped import identity_of, load_suite, load_task, suite_names, task_names, with_data
from luopan.evals.tasks.written import request
from luopan.evals.verifiers import TABLE

ROWS = [{"q": "A?", "right": 1}, {"q": "B?", "right": 0}]


def test_what_is_shipped_is_valid_and_suites_name_what_there_is():
    tasks = {name: load_task(name)[0] for name in task_names()}
    assert {"arc_easy", "gsm8k", "lambada", "ifeval", "humaneval"} <= tasks.keys()
    assert all(task.name == name and task.description for name, task in tasks.items())
    assert suite_names() == ("base", "chat", "early-signal", "long")
    for name in suite_names():
        assert set(load_suite(name).tasks) <= tasks.keys()
    for task in tasks.values():
        if isinstance(task, GenerateTask):
            assert all(check.verifier in TABLE for check in task.checks.values())
    assert not {*tasks, *suite_names()} & set(skill_names())


def test_templates_give_text_or_the_value_itself():
    row = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "key": "B", "n": 3}
    assert value_of("{{ choices.text }}", row) == ["a", "b"]
    assert value_of("{{ choices.label.index(key) }}", row) == 1
    assert value_of("{{ n }} of {{ n }}\n", row) == "3 of 3\n"
    assert value_of({"answer": ["{{ n }}", 7]}, row) == {"answer": [3, 7]}
    for template in ("{{ nothing }}", "so {{ nothing }}", "{{ n.x.y }}", "{{ choices.label.index('C') }}", "{{ n"):
        with pytest.raises(DataError, match=r"the columns are choices, key, n"):
            value_of(template, row)
    with pytest.raises(DataError):  # no way out of the sandbox
        value_of("{{ n.__class__.__mro__ }}", row)


def test_shipped_templates_ask_as_the_harness_does():
    arc, _ = load_task("arc_easy")
    row = {"question": "Why?", "choices": {"text": ["sun", "rain"], "label": ["1", "2"]}, "answerKey": "2"}
    assert isinstance(arc, ChoiceTask)
    asked = choices_of(arc, row, "here")
    assert asked.pairs == [("Question: Why?\nAnswer:", " sun"), ("Question: Why?\nAnswer:", " rain")]
    assert asked.right == 1
    letters, _ = load_task("arc_easy_letter")
    assert isinstance(letters, ChoiceTask) and letters.unconditional is None
    told = "Question: Why?\nA. sun\nB. rain\nAnswer:"
    assert choices_of(letters, row, "here").pairs == [(told, " A"), (told, " B")]
    names, _ = load_task("winogrande")
    row = {"sentence": "Ann thanked Bea, for _ had helped.", "option1": "Ann", "option2": "Bea", "answer": "2"}
    assert isinstance(names, ChoiceTask)
    asked = choices_of(names, row, "here")
    assert asked.pairs[1] == ("Ann thanked Bea, for Bea", " had helped.") and asked.right == 1
    goal, _ = load_task("piqa")
    assert isinstance(goal, ChoiceTask)
    assert choices_of(goal, {"goal": "g", "sol1": "x", "sol2": "y", "label": 1}, "here").right == 1
    sums, _ = load_task("gsm8k")
    assert isinstance(sums, GenerateTask)
    told = request(sums, {"question": "2?"}, "here", [("Question: 1?\nAnswer:", "#### 1")])
    assert told == "Question: 1?\nAnswer: #### 1\n\nQuestion: 2?\nAnswer:"


@pytest.mark.parametrize(("answer", "place"), [(1, 1), ("1", 1), ("B", 1), ("b", 1), ("rain", 1), ("sun", 0)])
def test_the_right_choice_may_be_named_in_several_ways(answer: object, place: int):
    task = ChoiceTask(
        kind="choice", name="t", data=Data(path="x"), prompt="p", choices=("sun", "rain"), answer="{{ a }}"
    )
    assert choices_of(task, {"a": answer}, "here").right == place
    for wrong in (2, -1, "C", "snow", None, True, 0.5):
        with pytest.raises(DataError, match="the choices are 0 to 1"):
            choices_of(task, {"a": wrong}, "here")


@pytest.mark.parametrize("end", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet"])
def test_rows_of_every_form(end: str, tmp_path: Path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    file = tmp_path / f"t{end}"
    made = {
        ".jsonl": lines, ".jsonl.gz": gzip.compress(lines), ".jsonl.zst": zstandard.compress(lines),
        ".json": json.dumps(ROWS).encode(),
    }  # fmt: skip
    if end == ".parquet":
        pq.write_table(pyarrow.Table.from_pylist(ROWS), file)
    else:
        file.write_bytes(made[end])
    assert [dict(row) for row in read_rows(Data(path=file.name), tmp_path)] == ROWS
    assert len(read_rows(Data(path=str(file)), None, 1)) == 1


def test_rows_from_a_saved_dataset(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    assert [dict(row) for row in read_rows(Data(dataset=str(tmp_path / "d")), None)] == ROWS


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [("a.jsonl", "{", "not JSON"), ("a.jsonl", "[1]", "columns"), ("a.json", "{}", "one list"),
     ("a.jsonl", "", "no rows"), ("a.txt", "x", "no file of rows that tasks can read")],
)  # fmt: skip
def test_rows_that_cannot_be_read_say_where(name: str, text: str, complaint: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=complaint) as found:
        read_rows(Data(path=name), tmp_path)
    assert name in str(found.value.where)
    with pytest.raises(DataError, match="no such file"):
        read_rows(Data(path="absent.jsonl"), tmp_path)


def test_a_file_of_ones_own_may_be_like_another(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("like: arc_easy\ndata: {path: rows.jsonl}\nprompt: '{{ q }}'\n")
    (tmp_path / "again.yaml").write_text("like: mine.yaml\nform: letter\nunconditional: null\n")
    mine, folder = load_task(tmp_path / "mine.yaml")
    again, _ = load_task(tmp_path / "again.yaml")
    assert (mine.name, folder, mine.data.path) == ("mine", tmp_path, "rows.jsonl")
    assert isinstance(again, ChoiceTask) and (again.name, again.prompt, again.form) == ("again", "{{ q }}", "letter")
    (tmp_path / "mine.jsonl").write_text("{}\n")
    assert with_data(mine, tmp_path).data.path == str(tmp_path / "mine.jsonl")
    assert with_data(again, tmp_path) is again
    assert identity_of(mine, ROWS) == identity_of(with_data(mine, tmp_path), ROWS) != identity_of(mine, ROWS[:1])


GOOD = {"kind": "generate", "data": {"path": "x.jsonl"}, "prompt": "p", "checks": {"exact": {"verifier": "exact"}}}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"promt": "x"}, "promt"),
        ({"choices": ["a", "b"]}, "choices"),
        ({"kind": "quiz"}, "kind|quiz"),
        ({"samples": 4}, "all samples are the same"),
        ({"pass_at": [2]}, "needs at least so many samples"),
        ({"thinking": True}, "no effect without chat"),
        ({"target": "x"}, "go together"),
        ({"data": {}}, "either path or dataset"),
        ({"data": {"path": "x", "split": "test"}}, "belong to a dataset"),
        ({"main": "other"}, "the checks are exact"),
    ],
)
def test_a_file_that_says_what_has_no_effect_is_refused(change: dict, complaint: str, tmp_path: Path):
    file = tmp_path / "t.yaml"
    file.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(DataError, match=complaint) as found:
        load_task(file)
    assert found.value.where == str(file)
    file.write_text(json.dumps(GOOD))
    assert load_task(file)[0].name == "t"
