"""Model cards: what the run's files say, "not recorded" elsewhere, and a head that the Hub's own class reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_toys import make_run
from huggingface_hub import ModelCard

from luopan.pipeline.card_facts import CardFacts, CardOptions, collect_facts, named
from luopan.pipeline.card_use import Use
from luopan.pipeline.export import export_hf
from luopan.pipeline.export_gguf import export_gguf
from luopan.pipeline.model_card import card_text, header, shown, table


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "toy")


def test_a_card_says_what_the_run_says(stage: Path, tmp_path: Path) -> None:
    options = CardOptions(license="apache-2.0", languages=("en", "zh"))
    folder = export_hf(stage, tmp_path / "out", card=options).folder
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["language"] == ["en", "zh"]
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-generation"
    assert data["datasets"] == ["owner/chats"] and {"luopan", "sft", "conversational"} <= set(data["tags"])
    assert "base_model" not in data
    for words in (
        "A toy.",
        "| books | books | public domain | 90 | 7,000 | 1,750 |",
        "| made | generated | not recorded | 10 | not recorded | not recorded |",
        "tokens, estimated",
        "120 documents were found, 105 kept (5 held out)",
        "| chats.jsonl | path | not recorded | not recorded |",
        "| addition | skill | examples 900 | made by luopan's programs |",
        "| sft | sft | num_train_epochs 2.0, learning_rate 0.001 | 12,345 | 12 s |",
        "| skills, mean | 10.0 % | 62.5 ± 5.0 % | 96 | with a `<think>` block \\| and more |",
        "| bits per byte | 2.000 bits/byte | 1.500 bits/byte | – |",
        "Recipe `toy`, seed 7.",
        "It knows nothing.",
        "4,242",
        "vllm serve out",
    ):
        assert words in card.text, words
    assert "/home/someone" not in (folder / "README.md").read_text()
    assert "/home/someone" not in (folder / "luopan_card.json").read_text()


def test_what_is_unknown_is_not_invented(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for file in (stage / "model").iterdir():
        (tmp_path / "plain" / file.name).write_bytes(file.read_bytes())
    folder = export_hf(tmp_path / "plain", tmp_path / "out").folder
    card = ModelCard.load(folder / "README.md")
    assert "license" not in card.data.to_dict() and "language" not in card.data.to_dict()
    for words in (
        "| licence | not recorded |",
        "| parameters | not recorded |",
        "| trained from | not recorded |",
        "What it was trained on: not recorded.",
        "How it was trained: not recorded.",
        "Measurements of this model: not recorded.",
        "What it is known not to do: not recorded.",
    ):
        assert words in card.text, words
    assert not (folder / "loss.png").exists()


def test_facts_travel_with_an_export(stage: Path, tmp_path: Path) -> None:
    first = export_hf(stage, tmp_path / "one", card=CardOptions(license="mit")).folder
    (first.parent / "elsewhere").mkdir()
    moved = first.rename(tmp_path / "elsewhere" / "one")
    second = export_gguf(moved, tmp_path / "two", card=CardOptions(license="mit")).folder
    card = ModelCard.load(second / "README.md")
    assert "| books | books | public domain |" in card.text and "± 5.0 %" in card.text
    assert card.data.to_dict()["library_name"] == "gguf" and "llama-cli -m two/two-f16.gguf" in card.text
    assert collect_facts(second) == collect_facts(moved)
    assert (second / "luopan_lineage.json").is_file()


def test_the_head_keeps_what_a_foreign_card_said(tmp_path: Path) -> None:
    facts = CardFacts(header={"license": "llama3.2", "language": "en", "base_model": "owner/base", "tags": ["maths"]})
    head = header(facts, CardOptions(), Use(), "hf")
    assert (head["license"], head["language"], head["base_model"]) == ("llama3.2", ["en"], "owner/base")
    assert "maths" in head["tags"]
    assert header(facts, CardOptions(license="My Own Licence"), Use(), "hf")["license_name"] == "my-own-licence"
    assert header(CardFacts(), CardOptions(), Use(), "adapter")["library_name"] == "peft"


def test_the_base_of_an_imported_model_is_named() -> None:
    stage = {"name": "base", "kind": "import", "from": "owner/model", "data": []}
    assert header(CardFacts(stages=[stage]), CardOptions(), Use(), "hf")["base_model"] == "owner/model"
    here = {**stage, "from": "folder"}
    assert "base_model" not in header(CardFacts(stages=[here]), CardOptions(), Use(), "hf")
    text = card_text(CardFacts(), CardOptions(), Use(), "x", {}, False)
    assert "| trained from | not recorded |" in text


@pytest.mark.parametrize(("place", "public"), [
    ("/home/me/data/chats.jsonl", "chats.jsonl"), ("owner/name", "owner/name"), ("../runs/base", "base"),
    ("runs/mine/sft", "sft"), ("C:\\data\\x", "C:\\data\\x"), ("~/x", "x"),
])  # fmt: skip
def test_places_of_this_machine_are_shortened(place: str, public: str) -> None:
    assert named(place) == public


def test_numbers_and_tables() -> None:
    assert (
        shown(0.5, "%", 0.01) == "50.0 ± 1.0 %" and shown(None, "%") == "–" and shown(1.23456, "nats") == "1.235 nats"
    )
    assert table(["a"], [["x|y\nz"]]) == "| a |\n|---|\n| x\\|y z |"
