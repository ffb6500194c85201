"""The options about sampling on the command line: each reaches the engine, and wrong ones are told in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from luopan.cli.main import run_verb
from luopan.cli.sampling import SAMPLING, WEIGHTS, sampling_from
from luopan.generate.config import SamplingParams

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def sft(run_folder: Path) -> str:
    return str(run_folder / "sft")


def call(capsys: Captured, *arguments: str, code: int = 0) -> str:
    found = run_verb(arguments[0], arguments[1:])
    said = capsys.readouterr()
    assert found == code, said.err
    return said.err if code else said.out


def rows(capsys: Captured, sft: str, *more: str) -> list[dict[str, Any]]:
    asked = ("generate", sft, "--prompt", "The quick", "--json", *more)
    return [json.loads(line) for line in call(capsys, *asked).splitlines()]


def test_there_is_an_option_for_every_parameter() -> None:
    """Token by token lists of bad words are for programs; top_logprobs is an option of `generate` alone."""
    assert set(SamplingParams.model_fields) - set(SAMPLING) == {"bad_words_ids", "top_logprobs"}
    assert not set(SAMPLING) - set(SamplingParams.model_fields)


def test_help_shows_them_in_groups(capsys: Captured) -> None:
    for verb in ("generate", "chat"):
        said = call(capsys, verb, "--help")
        headings = re.findall(r"^(\S[^\n]*):$", said, re.MULTILINE)
        assert headings[:2] == ["Arguments", "Options"] and "How tokens are drawn" in headings
        shown = set(re.findall(r"^  --([a-z-]+)", said, re.MULTILINE))
        names = {"bad-word" if name == "bad_words" else name.replace("_", "-") for name in (*SAMPLING, *WEIGHTS)}
        assert names <= shown
        assert max(map(len, said.splitlines())) <= 110
        assert said.index("What the answer must be:") < said.index("--json-schema") < said.index("Where it ends:")


def test_what_was_given_becomes_sampling_parameters(sft: str) -> None:
    plain = sampling_from(sft, max_new_tokens=5)
    assert plain == SamplingParams(max_new_tokens=5, temperature=0)
    assert sampling_from(sft, typical_p=0.9).temperature == 1.0
    params = sampling_from(sft, logit_bias=["42=-3", "7=1.5"], bad_words=["cat"], json_schema='{"type": "string"}')
    assert params.logit_bias == ((42, -3.0), (7, 1.5)) and params.bad_words == ("cat",)
    assert params.json_schema == '{"type": "string"}'


def test_answers_keep_to_a_form(sft: str, capsys: Captured, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    drawn = ("--temperature", "1", "--seed", "0")
    (row,) = rows(capsys, sft, "--regex", "[a-c]{5}", *drawn)
    assert re.fullmatch("[a-c]{5}", row["text"]) and row["finish_reason"] == "stop"
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [12, "ab"]}')
    (row,) = rows(capsys, sft, "--json-schema", str(schema), *drawn)
    assert json.loads(row["text"]) in (12, "ab")
    (row,) = rows(capsys, sft, "--json-schema", '{"type": "boolean"}', *drawn)
    assert row["text"] in ("true", "false")
    lark = tmp_path / "brackets.lark"
    lark.write_text('start: "(" start ")" | "x"')
    (row,) = rows(capsys, sft, "--grammar", str(lark), *drawn, "--max-new-tokens", "90")
    assert re.fullmatch(r"\(*x\)*", row["text"])
    (row,) = rows(capsys, sft, "--chat", "--think", "--thinking-budget", "3", "--regex", "[a-c]{5}", *drawn)
    assert re.fullmatch("[a-c]{5}", row["text"]) and row["thinking"] is not None


def test_likeliest_tokens_beams_and_the_best_of_several(sft: str, capsys: Captured) -> None:
    short = ("--max-new-tokens", "6")
    (row,) = rows(capsys, sft, "--top-logprobs", "3", *short)
    assert [best[0][0] for best in row["top_logprobs"]] == row["tokens"] and len(row["top_logprobs"][0]) == 3
    (plain,) = rows(capsys, sft, *short)
    assert "top_logprobs" not in plain and "score" not in plain
    (beam,) = rows(capsys, sft, "--beams", "4", *short)
    (one,) = rows(capsys, sft, "--beams", "1", *short)
    assert beam["score"] >= one["score"] and one["text"] == plain["text"]
    (best,) = rows(capsys, sft, "--best-of", "8", "--seed", "1", *short)
    (first,) = rows(capsys, sft, "--best-of", "1", "--temperature", "1", "--seed", "1", *short)
    assert best["score"] > first["score"]


def test_words_that_are_barred_and_ends_that_come_too_early(sft: str, capsys: Captured) -> None:
    (plain,) = rows(capsys, sft, "--max-new-tokens", "8", "--top-logprobs", "1")
    token = plain["tokens"][0]
    (other,) = rows(capsys, sft, "--max-new-tokens", "8", "--top-logprobs", "1", "--logit-bias", f"{token}=-100")
    assert token not in other["tokens"]
    (stopped,) = rows(capsys, sft, "--max-new-tokens", "8", "--stop-token-ids", str(token))
    assert stopped["completion_tokens"] == 1
    (longer,) = rows(
        capsys, sft, "--max-new-tokens", "8", "--stop-token-ids", str(token), "--min-new-tokens", "4"
    )  # fmt: skip
    assert longer["completion_tokens"] >= 4


@pytest.mark.parametrize("more", [("--dtype", "bfloat16"), ("--quantize", "int8"), ("--quantize", "int4")], ids=str)
def test_models_are_held_otherwise(sft: str, capsys: Captured, more: tuple[str, ...]) -> None:
    (row,) = rows(capsys, sft, "--max-new-tokens", "4", *more)
    assert row["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--top-logprobs", "3"), "--top-logprobs has no effect without --json"),
        (("--beams", "2", "--best-of", "2"), "two ways to choose"),
        (("--beams", "2", "--top-p", "0.9"), "top_p has no effect on a beam search"),
        (("--logit-bias", "42"), "'42' is not ID=X"),
        (("--logit-bias", "a=1"), "logit_bias"),
        (("--json-schema", "nowhere.json"), "nowhere.json: --json-schema: No such file"),
        (("--json-schema", '{"type": "strung"}'), "json_schema: Invalid type"),
        (("--regex", "[a"), "regex: "),
        (("--regex", "a", "--json-schema", "{}"), "give one"),
        (("--quantize", "int3"), "quantize is 'int3'"),
        (("--dtype", "float16"), "dtype is 'float16'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told(sft: str, capsys: Captured, more: tuple[str, ...], message: str) -> None:
    said = call(capsys, "generate", sft, "--prompt", "The quick", *more, code=2)
    assert message in " ".join(said.split()) and "Traceback" not in said
