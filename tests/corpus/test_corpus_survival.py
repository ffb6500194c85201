"""What a run may not do: lose documents after a kill, replace the user's files, leak held-out or test text, hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus_texts import WORDS, prose

from luopan.artifacts import sha256_file
from luopan.corpus import CurateConfig, Document, FileSource, curate, plan, read_documents, read_rejected, read_texts
from luopan.errors import DataError


def write_rows(path: Path, texts, **more) -> FileSource:
    path.write_text("".join(json.dumps({"text": text, "id": f"{n % 3}"}) + "\n" for n, text in enumerate(texts)))
    return FileSource(path=str(path), name=path.stem, **more)


def checksums(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def kept(folder: Path) -> list[str]:
    return [text for part in ("train", "held_out") for text in read_texts(folder / part)]


def test_folders_of_the_users_are_never_replaced(tmp_path):
    mine = tmp_path / "project" / "train"
    mine.mkdir(parents=True)
    source = write_rows(mine / "a.jsonl", [prose(n) for n in range(30)])
    before = checksums(mine)
    with pytest.raises(DataError, match="a folder train here that no corpus of luopan's left"):
        curate([source], CurateConfig(), tmp_path / "project")
    assert checksums(mine) == before
    with pytest.raises(DataError, match="lies in the source"):
        curate([FileSource(path=str(mine))], CurateConfig(), mine / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        curate([source], CurateConfig(), tmp_path / "file")


def test_a_kill_while_the_scratch_is_cleared_loses_nothing(tmp_path, monkeypatch):
    source = write_rows(tmp_path / "a.jsonl", [prose(n) for n in range(30)] + ["short"] * 20)
    curate([source], CurateConfig(), tmp_path / "whole")

    def killed(path, *args, **options):
        for file in Path(path).rglob("*.parquet"):
            file.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(plan.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        curate([source], CurateConfig(), tmp_path / "out")
    monkeypatch.undo()
    curate([source], CurateConfig(), tmp_path / "out")
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    assert len(list(read_rejected(tmp_path / "out" / "rejected"))) == 20


def test_documents_that_are_the_same_without_their_repeated_lines_stay_once(tmp_path):
    boiler = "\n".join(" ".join(WORDS[n : n + 14]) + "." for n in range(0, 28, 14))
    short = ["\n".join(line[:50] for line in prose(n, words=200).split("\n")) for n in range(40)]
    texts = [text for one in short for text in (one, f"{one}\n{boiler}")]
    settings = CurateConfig(exact={"line": True}, gopher_repetition=None, minhash=None)
    curate([write_rows(tmp_path / "a.jsonl", texts)], settings, tmp_path / "out")
    left = kept(tmp_path / "out")
    assert len(set(left)) == len(left)
    assert not set(read_texts(tmp_path / "out" / "held_out")) & set(read_texts(tmp_path / "out" / "train"))


def test_a_test_item_with_an_address_in_it_is_found_though_addresses_are_replaced(tmp_path):
    item = "Please send the final report to ann.smith@example.org before noon today or call the office instead"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": item}) + "\n")
    texts = [prose(n) for n in range(30)] + [prose(99) + "\n" + item]
    settings = CurateConfig.build(
        {
            "pii": {},
            "decontaminate": {"sets": {"mail": {"path": str(tmp_path / "eval.jsonl"), "columns": ["question"]}}},
        }
    )
    made = curate([write_rows(tmp_path / "a.jsonl", [*texts, "Write to bob@example.org. " + prose(7777)])], settings,
                  tmp_path / "out")  # fmt: skip
    assert [entry.step for entry in read_rejected(made.rejected)] == ["decontaminate"]
    assert sum("<email>" in text for text in kept(tmp_path / "out")) == 1


def test_new_names_of_documents_are_no_ones_already(tmp_path):
    ids = ["a", "a", "a~2", "a", "b"] + [f"c{n}" for n in range(20)]
    rows = [{"text": prose(n), "id": id} for n, id in enumerate(ids)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = curate([FileSource(path=str(tmp_path / "a.jsonl"), id_column="id")], CurateConfig(), tmp_path / "out")
    names = [document.id for part in (made.train, made.held_out) for document in read_documents(part)]
    assert len(set(names)) == len(names) == 25 and {"files/a", "files/a~2", "files/a~3", "files/a~4"} <= set(names)


def test_other_documents_of_a_program_are_not_taken_for_the_old_ones(tmp_path, monkeypatch):
    from luopan.corpus import curation

    source = write_rows(tmp_path / "a.jsonl", [prose(n) for n in range(30)])
    made = [[Document(f"s/{n}", f"{word} {n}", "s") for n in range(30)] for word in ("old", "new")]
    monkeypatch.setattr(curation, "pass_d", lambda *args, **options: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(Exception, match="full"):
        curate([source], CurateConfig(), tmp_path / "out", streams={"s": made[0]})
    monkeypatch.undo()
    curate([source], CurateConfig(), tmp_path / "out", streams={"s": made[1]})
    assert all(
        text.startswith("new") for part in ("train", "held_out") for text in read_texts(tmp_path / "out" / part, "s")
    )


def test_a_pipe_in_the_folder_does_not_hang_and_an_empty_archive_is_said(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_rows(folder / "a.jsonl", [prose(n) for n in range(30)])
    os.mkfifo(folder / "pipe.txt")
    (folder / "empty.jsonl.gz").write_bytes(b"")
    made = curate([FileSource(path=str(folder))], CurateConfig(), tmp_path / "out")
    assert sorted((item.rule, item.where.rsplit("/", 1)[-1]) for item in read_rejected(made.rejected)) == [
        ("damaged", "empty.jsonl.gz"),
        ("unreadable", "pipe.txt"),
    ]


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys\nfrom luopan.corpus.executor import LocalPool\nfrom test_corpus_survival import linger\n"
        "if __name__ == '__main__':\n    LocalPool(2).map(linger, [sys.argv[1]] * 2)\n"
    )
    (tmp_path / "main.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path)], env=environment)
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    parent.kill()
    parent.wait()
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    until(lambda: not any(alive(worker) for worker in workers))


def linger(folder: str) -> None:
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(120)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
