"""What is kept and what is not: overlap, evaluation sets, tallies, provenance; and lists as models write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synth_toys import harvest

from luopan.corpus.dedup_config import DecontaminateConfig
from luopan.synth.config import Dedup
from luopan.synth.harvest import Check
from luopan.synth.journal import Heard
from luopan.synth.overlap import Overlap
from luopan.synth.parsing import numbered
from luopan.synth.speaker import Reply


def test_overlap_is_the_share_of_common_ngrams() -> None:
    seen = Overlap(2, 0.7)
    assert seen.nearest("one two") == (0.0, None)
    seen.add("one two three four")  # 3 bigrams
    seen.add("eins zwei")
    share, text = seen.nearest("ONE two, three five!")  # one-two and two-three of its 3
    assert share == pytest.approx(2 * 2 / (3 + 3)) and text == "one two three four"
    assert seen.nearest("one two three four.")[0] == 1.0
    assert seen.nearest("four three two one") == (0.0, None)
    seen.add("hello")
    assert seen.nearest("Hello?") == (1.0, "hello")  # fewer words than an n-gram
    seen.add("今天天气怎么样")
    assert seen.nearest("今天天气怎么样呢")[0] == pytest.approx(2 * 6 / (6 + 7))
    assert seen.nearest("")[1] is None


def test_a_twin_is_rejected_and_names_the_first() -> None:
    found = harvest(Dedup(max_overlap=0.6))
    found.know("Write a poem about the sea")
    assert not found.passes({"q": 1}, found.fresh("write a poem about the sea!"))
    assert found.passes({"q": 2}, found.fresh("Name three rivers in China"))
    assert not found.passes({"q": 3}, found.fresh("Name three rivers in Chile"))  # 4 of 5 bigrams
    assert [row["q"] for row in found.rejected] == [1, 3] and "Name three rivers in China" in found.rejected[1][
        "reason"
    ]
    assert (found.tallies["duplicate"].seen, found.tallies["duplicate"].passed) == (3, 1)
    assert list(harvest().fresh("anything")) == []


def test_what_holds_evaluation_items_is_rejected(tmp_path: Path) -> None:
    item = "A farmer has seventeen sheep and all but nine of them run away into the hills"
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": item}) + "\n")
    config = DecontaminateConfig.model_validate({"sets": {"sums": {"path": str(tmp_path), "columns": ["question"]}}})
    found = harvest(evaluations=config)
    assert not found.passes({}, found.clean(f"Once more: {item.upper()}, how many are left?"))
    assert "sums, test.jsonl:1: A FARMER HAS" in found.rejected[0]["reason"]
    assert found.passes({}, found.clean("A farmer has seventeen goats."))
    assert list(harvest().clean(item)) == []


def test_checks_are_looked_at_up_to_the_first_that_fails() -> None:
    found = harvest()
    heard = [Heard(Reply("x"), "k2", "b", "2026-02-01"), Heard(Reply("y"), "k1", "a", "2026-03-01")]
    row = {"messages": []}
    assert not found.passes(row, [Check("a", True), Check("b", False, "why"), Check("c", True)], heard)
    assert found.passes(row, [Check("a", True), Check("b", True)], heard)
    found.keep(row, heard)
    assert {name: (t.seen, t.passed) for name, t in found.tallies.items()} == {"a": (2, 2), "b": (2, 1)}
    assert found.rejected[0]["check"] == "b" and found.rejected[0]["reason"] == "why"
    where = found.rows[0]["provenance"]
    assert where["models"] == ["a", "b"] and where["date"] == "2026-03-01" and where["requests"] == ["k2", "k1"]
    assert where["pipeline"] == "toy" and where["version"] == 1 and where["seed"] == 7 and where["prompt_hash"]


def test_numbered_lists() -> None:
    text = 'Sure!\n1. "Name a river."\n2) Write this:\n   a line\n\nnot an item\n**3.** Third **one**\n(4) Last'
    assert numbered(text) == ["Name a river.", "Write this:\na line", "Third **one**", "Last"]
    assert numbered("no list, of 3.5 things") == []
