"""The corpus section of a recipe: defaults, and keys without effect refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from luopan.corpus.config import CurateConfig, HeldOutConfig
from luopan.corpus.source_config import CorpusSource, FileSource, PackagedSource


def test_nothing_given_reads_the_packaged_texts_and_only_the_plays_may_be_missing():
    sources = CorpusSource().all_sources()
    assert [source.name for source in sources] == ["scripture", "plays", "python-docs", "docstrings"]
    assert [source.name for source in sources if source.optional] == ["plays"]


def test_a_path_alone_reads_the_users_files_alone():
    sources = CorpusSource(path="texts", text_column="body", max_bytes={"files": 1000}).all_sources()
    assert sources == (FileSource(path="texts", text_column="body", max_bytes=1000),)


def test_path_and_packaged_together_read_both():
    corpus = CorpusSource(path="texts", packaged=("scripture",), max_bytes={"scripture": 5})
    assert corpus.all_sources() == (FileSource(path="texts"), PackagedSource(packaged="scripture", max_bytes=5))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"text_column": "body"}, "text_column has no effect without path"),
        ({"licence": "MIT"}, "licence has no effect without path"),
        ({"max_bytes": {"files": 10}}, "max_bytes names 'files'"),
        ({"packaged": ["scripture"], "optional": ["plays"]}, "optional names 'plays'"),
        ({"packaged": []}, "nothing to read"),
        ({"packaged": ["scriptures"]}, "scripture"),
        ({"pth": "x"}, "Extra inputs"),
    ],
)
def test_a_key_that_would_do_nothing_is_an_error(given, complaint):
    with pytest.raises(ValidationError, match=complaint):
        CorpusSource(**given)


def test_a_held_out_cap_with_nothing_held_out_is_an_error():
    with pytest.raises(ValidationError, match="max_bytes has no effect"):
        HeldOutConfig(fraction=0, min_documents=0, max_bytes=10)
    assert CurateConfig(held_out=HeldOutConfig(fraction=0, min_documents=0)).held_out.fraction == 0


def test_the_configuration_loads_without_anything_heavy():
    check = (
        "import sys, luopan.corpus.config; print([m for m in ('torch', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"
