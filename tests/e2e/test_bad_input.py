"""Mistakes that a user can mend: one message with the place, exit code 2, no traceback, nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bad-input")]


@pytest.fixture
def recipe(luopan, tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    luopan("recipes", "copy", "smoke", str(path))
    return path


def refused(luopan, *arguments: str) -> str:
    done = luopan(*arguments, code=2)
    return done.stdout + done.stderr


def test_unknown_key_names_the_line_and_the_word_meant(luopan, recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace("learning_rate:", "lerning_rate:", 1)
    recipe.write_text(text)
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if "lerning_rate" in row)
    said = refused(luopan, "run", str(recipe), "--runs", str(tmp_path / "runs"))
    assert f"mine.yaml:{line}" in said and "learning_rate" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.max_steps=many", ("max_steps", "many")),
        ("sft.model=pretrian", ("pretrian", "pretrain")),
        ("pretrain.decay_ratio=0.5 pretrain.lr_scheduler_type=cosine", ("decay_ratio", "no effect")),
        ("pretrain.sequence_length=4096", ("4096", "max_position_embeddings")),
        ("corpus.path=nowhere/at/all", ("nowhere/at/all",)),
        ("sftt.max_steps=3", ("sftt", "sft")),
    ],
)
def test_overrides(luopan, tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    said = refused(luopan, "run", "smoke", "--runs", str(tmp_path / "runs"), *override.split(" "))
    assert all(word in said for word in words), said


def test_a_corpus_with_nothing_in_it(luopan, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    said = refused(
        luopan,
        "run",
        "smoke",
        "--runs",
        str(tmp_path / "runs"),
        f"corpus.path={tmp_path / 'texts'}",
        "corpus.packaged=null",
    )
    assert "texts" in said
    assert not (tmp_path / "runs" / "smoke" / "curate").exists()


def test_bad_files_are_set_aside_with_their_place_and_the_rest_is_used(luopan, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    words = "A long walk by the river in the evening brought them home again, and nobody was late for once. "
    for number in range(40):
        (folder / f"story{number}.txt").write_text(f"Story number {number}. " + words * 4 + f"\n\nThe end of {number}.")
    (folder / "picture.txt").write_bytes(b"\x89PNG\x00\x00\x01")
    (folder / "latin.txt").write_bytes("déjà vu".encode("latin-1") * 50)
    good = json.dumps({"text": "Another tale, told by the fire. " + words * 3})
    (folder / "rows.jsonl").write_text(f"{good}\n{{not json\n")
    runs = tmp_path / "runs"
    luopan("run", "smoke", "--until", "curate", "--runs", str(runs), f"corpus.path={folder}", "corpus.packaged=null",
           "curate.gopher_repetition=null", "curate.gopher_quality=null", "curate.minhash=null")  # fmt: skip
    funnel = json.loads((runs / "smoke" / "curate" / "corpus" / "funnel.json").read_text())
    aside = json.dumps([row for row in funnel["rejected"] if row["step"] == "read"])
    assert "rows.jsonl:2" in aside and "picture.txt" in aside and "latin.txt" in aside


def test_conversations_that_cannot_be_trained_on(smoke: Path, luopan, tmp_path: Path) -> None:
    ask, answer = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello to you."}
    rows = [json.dumps({"messages": [ask, answer]})] * 12
    rows += [
        json.dumps({"messages": [ask]}),
        "{oops",
        json.dumps({"messages": [ask, {**answer, "content": "so " * 500}]}),
    ]
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(rows) + "\n")
    recipe = tmp_path / "mine.yaml"
    luopan("recipes", "copy", "smoke", str(recipe))
    text = recipe.read_text()
    start, end = text.index("    data:\n"), text.index("    max_length: 128")
    recipe.write_text(text[:start] + f"    data: [{{path: {chats}}}]\n" + text[end:])
    import shutil

    shutil.copytree(smoke, tmp_path / "runs" / "smoke")
    luopan("run", str(recipe), "--until", "sft", "--runs", str(tmp_path / "runs"))
    report = json.loads((tmp_path / "runs" / "smoke" / "sft" / "stage_report.json").read_text())
    aside = json.dumps(report["set_aside"])
    assert all(f"chats.jsonl:{line}" in aside for line in (13, 14, 15)), aside
    chats.write_text("\n".join(rows[12:]) + "\n")
    said = refused(luopan, "run", str(recipe), "--until", "sft", "--runs", str(tmp_path / "runs"))
    assert "no conversation is left to train on" in said and "chats.jsonl:" in said
    assert (tmp_path / "runs" / "smoke" / "sft" / "manifest.json").is_file()  # the finished one is kept


def test_a_run_folder_that_cannot_be_written(luopan, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    said = refused(luopan, "run", "smoke", "--runs", str(tmp_path / "runs"))
    assert str(tmp_path / "runs") in said


def test_a_model_that_is_not_there(luopan, tmp_path: Path) -> None:
    assert "nothing-here" in refused(luopan, "chat", str(tmp_path / "nothing-here"))
