"""Sources in a recipe: told apart by one key, named once each, no key without effect."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from luopan.corpus.source_config import CodeSource, CorpusSource, FileSource, HubSource, PackagedSource
from luopan.corpus.web_config import ExtractConfig, UrlConfig


def test_nothing_given_reads_the_packaged_texts_and_only_the_plays_may_be_missing():
    sources = CorpusSource().all_sources()
    assert [source.name for source in sources] == ["scripture", "plays", "python-docs", "docstrings"]
    assert [source.name for source in sources if source.optional] == ["plays"]


def test_a_list_of_sources_is_read_alone_and_in_order():
    corpus = CorpusSource(
        path="texts",
        url_column="link",
        sources=[
            {"path": "crawl/*.warc.gz", "name": "web"},
            {"dataset": "org/name", "split": "test", "name": "hub"},
            {"code": "src", "suffixes": [".py", ".rs"]},
            {"packaged": "scripture"},
        ],
        max_bytes={"web": 7},
    )
    assert corpus.all_sources() == (
        FileSource(path="texts", url_column="link"),
        FileSource(path="crawl/*.warc.gz", name="web", max_bytes=7),
        HubSource(dataset="org/name", split="test", name="hub"),
        CodeSource(code="src", suffixes=(".py", ".rs")),
        PackagedSource(packaged="scripture"),
    )


def test_a_list_of_made_sources_is_taken_as_it_is():
    source = HubSource(dataset="org/name")
    assert CorpusSource(sources=(source,)).all_sources() == (source,)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"url_column": "u"}, "url_column has no effect without path"),
        ({"meta_columns": ["u"]}, "meta_columns has no effect without path"),
        ({"sources": [{"name": "x"}]}, "exactly one of the keys path, dataset, code, packaged"),
        ({"sources": [{"path": "x", "code": "y"}]}, "exactly one of the keys"),
        ({"sources": [{"path": "a"}, {"path": "b"}]}, "two sources are called 'files'"),
        ({"path": "a", "sources": [{"path": "b"}]}, "two sources are called 'files'"),
        ({"sources": [{"path": "a", "max_bytes": 5}], "max_bytes": {"files": 5}}, "given twice"),
        ({"sources": [{"path": "a"}], "max_bytes": {"web": 5}}, "max_bytes names 'web'"),
        ({"sources": [{"dataset": "a", "suffixes": [".py"]}]}, "Extra inputs"),
        ({"sources": [{"path": "a", "meta_columns": ["file"]}]}, "meta_columns cannot hold 'file'"),
        ({"sources": [{"code": "a", "suffixes": ["py"]}]}, "match pattern"),
        ({"sources": [{"packaged": "scriptures"}]}, "scripture"),
    ],
)
def test_a_source_that_cannot_be_is_refused(given, complaint):
    with pytest.raises(ValidationError, match=complaint):
        CorpusSource(**given)


def test_a_misspelt_key_is_told_for_the_kind_that_was_meant_alone():
    with pytest.raises(ValidationError) as caught:
        CorpusSource(sources=[{"dataset": "a", "splt": "test"}])
    assert [error["loc"] for error in caught.value.errors()] == [("sources", 0, "HubSource", "splt")]


@pytest.mark.parametrize(
    "given",
    [
        {"words": [], "soft_words": []},
        {"soft_words": [], "max_soft_words": 2},
        {"substrings": [" "]},
    ],
)
def test_url_rules_that_do_nothing_or_match_everything_are_refused(given):
    with pytest.raises(ValidationError):
        UrlConfig(**given)


def test_the_configuration_loads_without_anything_heavy():
    heavy = "('torch', 'pyarrow', 'trafilatura', 'datasets', 'numpy')"
    check = (
        "import sys, luopan.corpus.source_config, luopan.corpus.web_config;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"
    assert ExtractConfig().favour == "precision"
