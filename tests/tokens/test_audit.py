from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.tokens.audit import BYTE_CHARACTERS, audit, shown
from luopan.tokens.foreign import is_foreign, open_tokenizer
from luopan.tokens.tokenizer import plain_backend, save_tokenizer

IMPOSSIBLE = 13  # bytes that stand in no UTF-8 text: C0, C1, F5 to FF


def with_tokens(tokenizer: PreTrainedTokenizerFast, *planted: str) -> PreTrainedTokenizerFast:
    """The tokenizer with tokens that no merge makes."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in planted:
        state["model"]["vocab"][token] = len(state["model"]["vocab"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|endoftext|>")


def written(piece: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in piece)


def test_a_trained_tokenizer_has_no_glitches(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    found = audit(tokenizer, texts)
    assert found.faults == {"unreachable": 0, "undecodable": IMPOSSIBLE, "odd white space": 0, "invisible": 0}
    assert (found.vocabulary, found.added, found.used + found.unused) == (1024, 8, 1016)
    # Pieces of characters: the 128 bytes above ASCII, and beginnings and ends of Chinese ones that were merged.
    assert found.partial >= 128
    unread = audit(tokenizer)
    assert unread.used == 0 and unread.unused_share == 1.0
    assert 0 < found.unused_share < 0.5


def test_planted_glitches_are_found(tokenizer: PreTrainedTokenizerFast) -> None:
    planted = {
        " petertodd": "unreachable", "the end": "odd white space", "so ": "odd white space", "a\u200bb": "invisible",
    }  # fmt: skip
    made = with_tokens(
        tokenizer, *(written(text.encode()) for text in planted), written(b"\xe4A"), written(b"\xb8\xad\xe5")
    )
    found = audit(made)
    faults = {(glitch.id, glitch.fault) for glitch in found.glitches}
    for number, fault in enumerate(planted.values()):
        assert (1024 + number, fault) in faults
        assert (1024 + number, "unreachable") in faults
    assert (1028, "undecodable") in faults
    assert 1029 not in {glitch.id for glitch in found.glitches}  # the end of a character and the beginning of another
    assert found.faults["undecodable"] == IMPOSSIBLE + 1


def test_shown() -> None:
    assert shown("é中 a".encode()) == "é中 a"
    assert shown(b"\xe4\n\x00") == "\\xe4\\n\\x00"
    assert shown(b"x" * 100) == "x" * 32 + "… (100 characters)"


def test_gpt2s_files(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (tmp_path / "encoder.json").write_text(json.dumps(state["vocab"]))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in state["merges"]))
    opened = open_tokenizer(tmp_path)
    assert opened.eos_token == "<|endoftext|>"
    assert is_foreign(tmp_path)
    text = "The statement is executed, and so is this one."
    assert opened.encode(text) == plain_backend(tokenizer).encode(text).ids


def test_tiktoken_files_merge_by_rank(tmp_path: Path) -> None:
    words = [*(bytes([b]) for b in range(256)), b"ab", b"bc", b"abc", b" abc", b"12", b"123"]
    file = tmp_path / "toy.tiktoken"
    file.write_text("\n".join(f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(words)))
    opened = open_tokenizer(file)
    assert opened.encode("abc abc bc") == [258, 259, 32, 257]
    assert opened.encode("1234") == [261, ord("4")]
    qwen = tmp_path / "qwen.tiktoken"
    qwen.write_bytes(file.read_bytes())
    assert open_tokenizer(qwen).encode("12") == [ord("1"), ord("2")]


def test_tokenizers_in_packages(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carrier"
    save_tokenizer(tokenizer, package / "data")
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for reference in ("package:carrier/data", "package:carrier/data/tokenizer.json"):
        assert len(open_tokenizer(reference)) == 1024
    assert "carrier" not in sys.modules
    with pytest.raises(ModelError, match="no package 'absent'"):
        open_tokenizer("package:absent/data")
    with pytest.raises(ModelError, match="outside"):
        open_tokenizer("package:carrier/../secret")


@pytest.mark.parametrize(("name", "content", "match"), [
    ("a.tiktoken", "no tokens here at all", "no list of tokens"),
    ("b.tiktoken", "YQ== 0\n", "fewer than there are bytes"),
    ("c.json", '{"broken', "no tokenizer can be read"),
])  # fmt: skip
def test_files_that_are_no_tokenizers(tmp_path: Path, name: str, content: str, match: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=match):
        open_tokenizer(tmp_path / name)
    with pytest.raises(ModelError, match="no such file"):
        open_tokenizer(tmp_path / "nowhere")


def test_the_order_of_merges_is_that_of_ranks() -> None:
    # "bc" is the older token: "abc" is a + bc, though "ab" is found first in the text.
    model = models.BPE({"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4}, [("b", "c"), ("a", "b")])
    toy = Tokenizer(model)
    toy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert toy.encode("abc").ids == [0, 3]
