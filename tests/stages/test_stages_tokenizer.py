"""The tokenizer stage: what it learns from, and what its report says."""

from __future__ import annotations

import json
import pydoc_data.topics
import random
from pathlib import Path

import pytest
from stage_toys import corpus_artifact, workspace

from luopan.artifacts import Artifact
from luopan.errors import RecipeError
from luopan.recipe.specs import TokenizerSpec
from luopan.stages.tokenizer import Tokenizer, rules, source_bytes
from luopan.tokens.config import SampleConfig, TokenizerConfig
from luopan.tokens.tokenizer import load_tokenizer, train_tokenizer

ENGLISH = [text[:500] for text in pydoc_data.topics.topics.values() if text][:60]
WORDS = [
    "山上",
    "有一座",
    "庙里",
    "老和尚",
    "讲故事",
    "从前",
    "小河",
    "月亮",
    "出来了",
    "我们",
    "走过",
    "一条",
    "长长的",
    "路",
]
CHINESE = ["".join(random.Random(i).choices(WORDS, k=80)) + "。" for i in range(60)]


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    return corpus_artifact(tmp_path / "curate", {"en": ENGLISH, "zh": CHINESE}, held_out=20)


class Spec(TokenizerSpec, SampleConfig):
    """What a recipe says about the stage."""


def run(corpus: Artifact, folder: Path, **settings: object) -> dict[str, object]:
    spec = Spec.model_validate({"kind": "tokenizer", "corpus": "web", "vocab_size": 384, **settings})
    return Tokenizer.run(spec, {"corpus": (corpus,)}, workspace(folder))


def test_all_text_is_learned_from_where_there_is_room(corpus: Artifact, tmp_path: Path) -> None:
    run(corpus, tmp_path / "tok")
    whole = train_tokenizer([*ENGLISH[:-20], *CHINESE[:-20]], TokenizerConfig(vocab_size=384))
    made = load_tokenizer(tmp_path / "tok" / "tokenizer")
    assert made.backend_tokenizer.to_str() == whole.backend_tokenizer.to_str()
    report = json.loads((tmp_path / "tok" / "stage_report.json").read_text())
    (learned,) = [table for table in report["tables"] if table["title"] == "Learned from"]
    sizes = source_bytes(corpus)
    assert [(row[0], row[3]) for row in learned["rows"]] == [("en", 1.0), ("zh", 1.0)]
    assert sum(row[2] for row in learned["rows"]) == pytest.approx(1)
    assert learned["rows"][0][2] == pytest.approx(sizes["en"] / sum(sizes.values()))


def test_a_sample_depends_on_the_seed_alone(corpus: Artifact, tmp_path: Path) -> None:
    one, two = (run(corpus, tmp_path / name, sample_bytes=8_000, min_frequency=1) for name in ("a", "b"))
    assert one == two


def test_rules_in_words() -> None:
    assert rules(TokenizerConfig()) == "digits stand alone"
    assert "threes" in rules(TokenizerConfig(digit_group=3))
    assert "one token" in rules(TokenizerConfig(split_digits=False, whitespace="code"))
    assert "runs of spaces" in rules(TokenizerConfig(whitespace="code"))


def test_weights_decide_what_is_learned(corpus: Artifact, tmp_path: Path) -> None:
    chinese = run(corpus, tmp_path / "zh", weights={"en": 0, "zh": 1})
    english = run(corpus, tmp_path / "en", weights={"en": 1, "zh": 0})
    figure = lambda made: made["sources"]["zh"]["bytes_per_token"]  # type: ignore[index]  # noqa: E731
    assert figure(chinese) > 1.5 * figure(english)
    with pytest.raises(RecipeError, match="no source of the corpus"):
        run(corpus, tmp_path / "no", weights={"fr": 1})
