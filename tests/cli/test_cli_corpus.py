"""`luopan corpus`: from files to a corpus and back to its documents, on the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from luopan.cli.corpus_out import check_out
from luopan.cli.corpus_settings import config_of, split_words
from luopan.cli.corpus_sources import sides_of, source_of, sources_of
from luopan.cli.main import run_verb
from luopan.corpus.source_config import CodeSource, FileSource, HubSource, PackagedSource
from luopan.errors import RecipeError

WORDS = "river mountain walks under quiet light while children gather stones beside water singing softly about bread"


def prose(seed: int, words: int) -> str:
    source = random.Random(seed)
    pool = [f"{word}{end}" for word in WORDS.split() for end in ("", "s", "ed", "ing", "er", "ly")]
    sentences = [" ".join(source.sample(pool, 10)).capitalize() + "." for _ in range(words // 10)]
    return " ".join(sentences)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """texts/*.jsonl with long and short documents, and the corpus that `corpus run` made of them."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "texts").mkdir()
    for name, lengths in (("pages", (200, 30)), ("letters", (80, 60))):
        with open(folder / "texts" / f"{name}.jsonl", "w") as file:
            for number in range(40):
                words = lengths[number % 4 == 0]
                file.write(json.dumps({"text": prose(1000 * lengths[0] + number, words), "web": "http://a.org"}) + "\n")
            file.write("{broken\n")
    places = [str(folder / "texts" / f"{name}.jsonl") for name in ("pages", "letters")]
    made = run_verb("corpus", ["run", *places, "--out", str(folder / "corpus"), "--url-column", "web", "workers=1"])
    assert made == 0
    return folder


def luopan(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run_verb("corpus", [str(argument) for argument in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, err = luopan(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


# ---------------------------------------------------------------- run and show


def test_run_writes_a_corpus_with_a_card_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = as_json(capsys, "show", folder / "corpus")
    steps = {step["step"]: step["documents"] for step in shown["funnel"]["steps"]}
    assert steps["found"] == 82 and steps["read"] == 80 and steps["gopher_quality"] == 70
    assert set(shown["card"]["sources"]) == {"pages", "letters"}
    assert shown["card"]["domains"]["top"][0]["host"] == "a.org"
    assert (folder / "corpus" / "card.html").read_text().startswith("<!doctype html>")


def test_run_does_not_replace_a_corpus_unasked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder / "texts" / "pages.jsonl"
    code, _, err = luopan(capsys, "run", source, "--out", folder / "corpus")
    assert code == 2 and "holds a corpus already" in err
    given = ("run", source, "--out", tmp_path / "c", "workers=1")
    assert as_json(capsys, *given, "gopher_quality=null")["card"]["documents"]["train"] > 30
    made = as_json(capsys, *given, "--force", "gopher_quality.min_words=150")
    assert made["path"] == str(tmp_path / "c")
    assert sum(made["card"]["documents"].values()) == 30
    code, out, _ = luopan(capsys, "show", tmp_path / "c")
    assert code == 0 and "gopher_quality/min_words" in out and "documents to train on" in out


def test_show_pages_through_what_a_rule_took(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("show", folder / "corpus", "--rejected", "gopher_quality", "--per-page", 8)
    code, out, _ = luopan(capsys, *given)
    assert code == 0 and "gopher_quality/min_words 30 (limit 50)" in out and "the next: --page 2" in out
    second = as_json(capsys, *given, "--page", 2)
    assert len(second["documents"]) == 2 and not second["more"]
    assert second["documents"][0]["rule"] == "min_words" and len(second["documents"][0]["text"].split()) == 30
    code, out, _ = luopan(capsys, *given, "--page", 2)
    assert "9. pages/" in out and out.startswith("page 2 of 2, 10 documents\n") and "the next" not in out
    code, _, err = luopan(capsys, *given, "--page", 3)
    assert code == 2 and "there are 2 pages (10 documents)" in err
    unread = as_json(capsys, "show", folder / "corpus", "--rejected", "read/json", "--source", "letters")
    assert [row["where"].rsplit("/")[-1] for row in unread["documents"]] == ["letters.jsonl:41"]


def test_show_pages_through_what_was_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("show", folder / "corpus", "--kept", "train", "--source", "letters")
    rows = as_json(capsys, *given, "--per-page", 3)["documents"]
    assert [row["source"] for row in rows] == ["letters"] * 3
    code, out, _ = luopan(capsys, *given, "--per-page", 1, "--characters", 20)
    assert code == 0 and f"   {rows[0]['text'][:20]}… (" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rejected", "gopher_qualty"], "gopher_qualty rejected nothing"),
        (["--rejected", "all", "--source", "x"], "no source 'x'"),
        (["--rejected", "all", "--kept", "train"], "not both"),
        (["--page", "2"], "no effect without"),
    ],
)
def test_show_names_what_is_wrong(
    folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = luopan(capsys, "show", folder / "corpus", *options)
    assert code == 2 and message in err and "Traceback" not in err


def test_run_refuses_an_out_that_its_sources_would_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "a.txt").write_text(prose(1, 100))
    for source, out, message in (
        (mine, mine, "--out lies in the source mine, so the next run would read"),
        (mine, mine / "sub" / "corpus", "--out lies in the source mine"),
        (mine, tmp_path, "--out holds the source mine"),
        (f"{mine}/*", mine / "corpus", "--out lies in the source files"),
        (f"{mine}/**/*.txt", mine / "corpus", "--out lies in the source files"),
        (f"code:{mine}", mine / "corpus", "--out lies in the source code-mine"),
    ):
        code, _, err = luopan(capsys, "run", source, "--out", out)
        assert code == 2 and message in err, (source, out, err)
    assert sorted(path.name for path in mine.iterdir()) == ["a.txt", "sub"]
    check_out(mine / "corpus", sources_of([f"{mine}/*.txt"], {}))
    check_out(mine / "corpus", sources_of([f"{mine}/a.txt"], {}))
    check_out(tmp_path / "mine2", sources_of([str(mine)], {}))


@pytest.mark.parametrize("out", ["file", "file/corpus", "/proc/nowhere/corpus", "x" * 300])
def test_run_refuses_an_out_that_cannot_be_made(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text(prose(1, 100))
    (tmp_path / "t.txt").write_text(prose(1, 100))
    code, _, err = luopan(capsys, "run", "t.txt", "--out", out)
    assert code == 2 and "--out " in err and "Give a folder" in err


def test_run_caps_its_sources(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder / "texts" / "pages.jsonl"
    made = as_json(capsys, "run", source, "--out", tmp_path / "c", "workers=1", "max_source_bytes=9000")
    assert 5000 < sum(made["card"]["bytes"].values()) <= 9000


def test_an_interrupted_run_says_how_it_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("luopan.corpus.curate", stopped)
    code, _, err = luopan(capsys, "run", folder / "texts", "--out", tmp_path / "c")
    assert code == 130 and err.strip() == "interrupted; the same command goes on from there"


# ---------------------------------------------------------------- try


def test_try_shows_both_funnels_and_the_documents_that_change(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("try", folder / "texts" / "pages.jsonl", "gopher_quality.min_words=20")
    code, out, _ = luopan(capsys, *given)
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert code == 0 and rows["gopher_quality"] == ["gopher_quality", "30", "40", "+10"]
    assert "0 newly rejected, 10 newly kept" in out
    assert "40 of 40 documents tried; 1 row beside them cannot be read" in out
    assert "1 × read/json, such as" in out
    assert "before: gopher_quality/min_words 30 (limit 50); after: kept" in out
    assert out.count("newly kept: pages/") == 3
    plain = as_json(capsys, *given, "--sample", 12)
    assert plain["documents"] == 12 and plain["newly_kept"] == len(plain["changes"])
    assert all(change["after"] is None and change["text"] for change in plain["changes"])


def test_try_of_a_recipe_changes_its_curate_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "mine.yaml"
    stage = "{kind: curate, gopher_quality: {min_words: 100}}"
    recipe.write_text(f"name: mine\ncorpus: {{path: {folder / 'texts'}}}\nstages:\n  curate: {stage}\n")
    code, out, err = luopan(capsys, "try", recipe, "gopher_quality.min_words=50")
    assert code == 0, err
    assert "0 newly rejected, 40 newly kept" in out
    code, _, err = luopan(capsys, "try", recipe, "gopher_quality.min_words=50", "--preset", "books")
    assert code == 2 and "--preset has no effect" in err
    code, _, err = luopan(capsys, "try", recipe, "gopher_quality.min_words=50", "--stage", "other")
    assert code == 2 and "no curate stage 'other'" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["minhash.ngram=13"], "minhash needs the whole corpus: use corpus run"),
        (["exact=null"], "exact needs the whole corpus"),
        (["workers=2"], "workers has no effect on a sample"),
        (["gopher_quality.min_words=50"], "changes nothing"),
        (["gopher_quality.min_wrds=20"], 'did you mean "min_words"?'),
        (["gopher_quality.min_words=many"], "expected a whole number"),
        (["gopher_qualty.min_words=20"], 'no setting "gopher_qualty"; did you mean gopher_quality?'),
        (["gopher_quality.min_words=20", "--stage", "a"], "--stage has no effect"),
    ],
)
def test_try_names_what_is_wrong(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = luopan(capsys, "try", folder / "texts", *words)
    assert code == 2 and message in err and "Traceback" not in err


def test_try_without_a_change_shows_the_funnel_of_the_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("try", folder / "texts" / "pages.jsonl")
    code, out, _ = luopan(capsys, *given)
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert code == 0 and rows["step"] == ["step", "documents", "text"] and rows["gopher_quality"][1] == "30"
    assert rows["gopher_quality/min_words"][1] == "10" and "30 of 40 (75.0%)" in out and "before" not in out
    assert as_json(capsys, *given)["changes"] == []


def test_try_says_where_pieces_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("try", folder / "texts" / "pages.jsonl", "max_document_bytes=600", "gopher_quality.min_words=10")
    out = luopan(capsys, *given)[1]
    assert "40 of 40 documents tried" in out and " pieces (100.0%) after" in out and "30 of 40 (75.0%) before" in out


# ---------------------------------------------------------------- card


def test_card_is_text_json_and_a_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "card.html"
    code, out, _ = luopan(capsys, "card", folder / "corpus", "--html", page, "--title", "My pages")
    assert code == 0 and "pages" in out and "languages" in out and f"page: {page}" in out
    text = page.read_text()
    assert "My pages" in text and "gopher_quality/min_words" in text and "<script" not in text
    rejected = text[text.index('id="rejected"') :]
    assert prose(200_000, 30)[:40] in rejected or rejected.count('class="said"') >= 2
    assert as_json(capsys, "card", folder / "corpus")["documents"]["train"] > 50
    code, _, err = luopan(capsys, "card", folder / "corpus", "--title", "x")
    assert code == 2 and "--title has no effect" in err
    code, _, err = luopan(capsys, "card", tmp_path)
    assert code == 2 and "no corpus in this folder" in err


def test_train_quality_is_one_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train-quality" in luopan(capsys, "--help")[1]
    for command in ("run", "show", "try", "card", "train-quality"):
        assert f"luopan corpus {command}" in luopan(capsys, command, "--help")[1]


# ---------------------------------------------------------------- words


def test_settings_are_told_from_sources() -> None:
    words = ["texts", "books=b.jsonl", "c4=null", "gopher_quality.min_words=3", "minhash.ngram=13", "a=b=c"]
    assert split_words(words) == (["texts", "books=b.jsonl", "a=b=c"], words[2:5])


def test_sources_are_written_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "books.jsonl.zst").touch()
    assert source_of("texts", {}, set()) == FileSource(path="texts", name="texts")
    assert source_of("books.jsonl.zst", {}, set()).name == "books"
    assert source_of("mine=texts", {"text_column": "body"}, set()) == FileSource(
        path="texts", name="mine", text_column="body"
    )
    assert source_of("texts/*.md", {}, {"files"}) == FileSource(path="texts/*.md", name="files-2")
    assert source_of("packaged:docstrings", {}, set()) == PackagedSource(packaged="docstrings")
    assert source_of("plays", {"text_column": "x"}, set()) == PackagedSource(packaged="plays")
    assert source_of("code:src", {"licence": "MIT"}, set()) == CodeSource(code="src", name="code-src", licence="MIT")
    assert source_of("w=hub:org/web:en:test", {"url_column": "u"}, set()) == HubSource(
        dataset="org/web", name="w", config="en", split="test", url_column="u"
    )
    (tmp_path / "odd=name.txt").touch()
    assert source_of("odd=name.txt", {}, set()).path == "odd=name.txt"  # type: ignore[union-attr]
    names = [source.name for source in sources_of(["texts", "texts", "plays"], {})]
    assert names == ["texts", "texts-2", "plays"]


@pytest.mark.parametrize(
    ("words", "columns", "message"),
    [
        ([], {}, "no source is given"),
        (["nowhere"], {}, "no such file or folder"),
        (["min_words=5"], {}, "min_words belongs to gopher_quality: write gopher_quality.min_words=5"),
        (["gopher_quality/min_words=5"], {}, "written with a dot\n  Write gopher_quality.min_words=5"),
        (["minhsh={}"], {}, 'no setting "minhsh"; did you mean minhash'),
        (["speed=3"], {}, 'no setting "speed"'),
        (["minhash"], {}, "minhash={} turns a step on"),
        (["packaged:bible"], {}, "no packaged text 'bible'"),
        (["x=packaged:plays"], {}, "keeps its name"),
        (["hub:"], {}, "is written hub:"),
        (["plays"], {"text_column": "x"}, "--text-column has no effect"),
    ],
)
def test_words_that_are_no_source(words: list[str], columns: dict[str, str | None], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sources_of(words, columns)


def test_settings_go_over_the_preset() -> None:
    config = config_of(["gopher_quality.min_alphabetic_words=0.4"], "maths")
    assert config.gopher_quality is not None and config.gopher_quality.min_alphabetic_words == 0.4
    assert config.gopher_quality.max_symbol_ratio == 0.6 and config.minhash is not None
    assert config_of(["minhash=null"], "maths").minhash is None
    with pytest.raises(RecipeError, match="expected one of web, books"):
        config_of([], "poems")


def test_a_file_that_is_missing_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").touch()
    for word in (f"{tmp_path}/pgaes.jsonl", f"web={tmp_path}/pgaes.jsonl", f"urls2={tmp_path}/pages.json"):
        with pytest.raises(RecipeError, match="no such file or folder") as caught:
            sources_of([word], {})
        assert f"Did you mean {tmp_path}/pages.jsonl?" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("c4=off", "c4=null turns the step off, c4={} turns it on"),
        ("language.languages=zh", "'language.languages=[zh]'"),
        ("decontaminate=t.jsonl", "decontaminate={sets: {mine: {path: t.jsonl, columns: [question, answer]}}}"),
        ("max_document_bytes=none", "max_document_bytes=null"),
    ],
)
def test_values_of_the_wrong_kind_are_answered_with_how_to_write_them(setting: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        config_of([setting, "gopher_quality.min_words=5"], None)
    assert hint in str(caught.value) and "min_words" not in str(caught.value)


def test_the_example_of_decontamination_is_valid() -> None:
    config = config_of(["decontaminate={sets: {mine: {path: FILE, columns: [question, answer]}}}"], None)
    assert config.decontaminate is not None


def test_lists_are_settings_too() -> None:
    config = config_of(["language.languages=[en, de]"], "web")
    assert config.language is not None and config.language.languages == ("en", "de")


def test_a_recipe_without_a_curate_stage_cannot_be_tried(tmp_path: Path) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text("name: two\ncorpus: {packaged: [docstrings]}\nstages: {a: {kind: curate}, b: {kind: curate}}\n")
    with pytest.raises(RecipeError, match="2 curate stages"):
        sides_of([str(recipe), "c4={}"], None, {}, None)
    sources, before, after = sides_of([str(recipe), "c4={}"], None, {}, "b")
    assert sources[0].name == "docstrings" and before.c4 is None and after.c4 is not None
